//! What is said of a folder of pictures besides where it is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How a folder of pictures is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pictures {
    /// A file with the names of the class folders, one a line, in the order of the labels. Without it `classes.txt` in the
    /// folder says so, and without that the names are sorted, as numbers if all of them are numbers.
    pub classes: Option<PathBuf>,
    /// What every picture is scaled and cropped to.
    pub resize: Option<PictureSize>,
    /// What every picture is converted to. Without it all are grey if all files are, and else all are RGB.
    pub color: Option<Color>,
}

/// `resize`, `color`
impl fmt::Display for Pictures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given =
            [("classes", self.classes.is_some()), ("resize", self.resize.is_some()), ("color", self.color.is_some())];
        let given: Vec<String> = given.iter().filter(|g| g.1).map(|g| format!("`{}`", g.0)).collect();
        f.write_str(&given.join(", "))
    }
}

/// Pixels of a picture, written HEIGHTxWIDTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSize {
    /// In pixels.
    pub height: u32,
    /// In pixels.
    pub width: u32,
}

/// Pixels along a side that nobody asks for in earnest.
const LARGEST: u32 = 1 << 16;

impl FromStr for PictureSize {
    type Err = String;

    fn from_str(text: &str) -> Result<PictureSize, String> {
        let side = |t: &str| t.parse().ok().filter(|n| (1..=LARGEST).contains(n));
        let sides = text.split_once('x').and_then(|(h, w)| Some((side(h)?, side(w)?)));
        let (height, width) = sides.ok_or(format!("`{text}` is no size: write HEIGHTxWIDTH, as 224x224"))?;
        Ok(PictureSize { height, width })
    }
}

impl fmt::Display for PictureSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// Channels of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    /// One: (299 red + 587 green + 114 blue) / 1000, as Pillow and OpenCV have it. (ITU-R BT.601.)
    Grey,
    /// Red, green, blue.
    Rgb,
}

impl FromStr for Color {
    type Err = String;

    fn from_str(text: &str) -> Result<Color, String> {
        match text {
            "grey" | "gray" => Ok(Color::Grey),
            "rgb" => Ok(Color::Rgb),
            _ => Err(format!("`{text}` is none of `grey` and `rgb`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_height_by_width() {
        assert_eq!("32x24".parse(), Ok(PictureSize { height: 32, width: 24 }));
        for bad in ["32", "0x3", "3x-1", "x", "3x3x3", "3x100000"] {
            assert!(bad.parse::<PictureSize>().unwrap_err().contains("is no size"), "{bad}");
        }
    }
}
