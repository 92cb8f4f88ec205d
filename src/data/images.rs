//! A folder of pictures as a data set.

use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageReader};
use rayon::prelude::*;

use super::array::{Array, Dtype};
use crate::error::{Error, Result, io};

/// Classes that are spelled out.
const SHOWN: usize = 20;

/// The arrays of a folder: `x` u8 [N,C,H,W] (C is 1 if all pictures are grey, else 3: red, green, blue) and, if it has
/// sub-folders, `y` i64 [N]: the place of the picture's sub-folder among the sorted names. Pictures come in the order of
/// their names; hidden files are passed over, other files named in a warning. What was read joins `read`.
pub(super) fn read_folder(
    folder: &Path,
    warnings: &mut Vec<String>,
    read: &mut Vec<PathBuf>,
) -> Result<(Array, Option<Array>)> {
    let (folders, mut files) = list(folder)?;
    let labelled = !folders.is_empty();
    let mut labels = Vec::new();
    let mut ignored = Vec::new();
    if labelled {
        ignored.append(&mut files);
        for (label, class) in folders.iter().enumerate() {
            let (deeper, pictures) = list(class)?;
            ignored.extend(deeper);
            for picture in pictures {
                labels.push(label);
                files.push(picture);
            }
        }
    }
    let is_picture = |p: &Path| {
        let extension = p.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        matches!(extension.as_str(), "png" | "jpg" | "jpeg")
    };
    let labels: Vec<i64> = labels.iter().zip(&files).filter(|(_, p)| is_picture(p)).map(|(&l, _)| l as i64).collect();
    if labelled {
        let named = folders.iter().filter_map(|f| f.file_name()).map(|f| f.to_string_lossy());
        let classes: Vec<String> = named.enumerate().map(|(i, name)| format!("{i} = {name}")).take(SHOWN).collect();
        let more = if folders.len() > SHOWN { ", …" } else { "" };
        warnings.push(format!(
            "{}: classes are numbered in the order of their folders' names: {}{more}",
            folder.display(),
            classes.join(", ")
        ));
    }
    let (files, others): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(|p| is_picture(p));
    ignored.extend(others);
    if let Some(first) = ignored.first() {
        let (n, first) = (ignored.len(), first.display());
        warnings
            .push(format!("{}: ignored {n} entries that are no pictures of a class, {first} first", folder.display()));
    }
    read.extend(folders.into_iter().chain(files.iter().cloned()));
    let (Some(first_file), Some(first)) = (files.first(), files.first().map(|f| decode(f)).transpose()?) else {
        return Err(Error::input(format!("no pictures in {}", folder.display()))
            .because("it has no .png, .jpg or .jpeg file, itself or in its sub-folders")
            .help("put one sub-folder a class in it, or give a .npz file"));
    };

    let size = (first.width(), first.height());
    let pictures: Vec<Result<DynamicImage>> = files
        .par_iter()
        .map(|file| {
            let picture = decode(file)?;
            if (picture.width(), picture.height()) == size {
                return Ok(picture);
            }
            Err(Error::input(format!("the pictures in {} differ in size", folder.display()))
                .because(format!(
                    "{} is {}x{}, {} is {}x{}",
                    first_file.display(),
                    size.0,
                    size.1,
                    file.display(),
                    picture.width(),
                    picture.height()
                ))
                .help("resize them to the model's input size"))
        })
        .collect();
    let pictures: Vec<DynamicImage> = pictures.into_iter().collect::<Result<_>>()?;

    let grey = pictures.iter().all(|p| matches!(p, DynamicImage::ImageLuma8(_)));
    let (width, height) = (size.0 as usize, size.1 as usize);
    let mut shape = vec![pictures.len(), 1, height, width];
    let mut bytes = Vec::new();
    if grey {
        pictures.iter().for_each(|p| bytes.extend_from_slice(p.as_bytes()));
    } else {
        shape[1] = 3;
        for picture in pictures {
            let rgb = picture.into_rgb8();
            for c in 0..3 {
                bytes.extend(rgb.pixels().map(|p| p.0[c]));
            }
        }
    }
    let x = Array::new(Dtype::U8, shape, bytes)?;
    let y = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
    let y = labelled.then(|| Array::new(Dtype::I64, vec![labels.len()], y)).transpose()?;
    Ok((x, y))
}

/// Sub-folders and files of a folder, each sorted by name, without hidden ones.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let failed = |e| io("read the folder", folder, &e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort();
    Ok(entries.into_iter().partition(|p| p.is_dir()))
}

/// A picture with 8 bits a channel: grey stays grey, all else becomes RGB; transparency is dropped.
fn decode(file: &Path) -> Result<DynamicImage> {
    let reader = ImageReader::open(file).and_then(ImageReader::with_guessed_format);
    let picture = reader.map_err(|e| io("read", file, &e))?.decode();
    let picture = picture.map_err(|e| {
        let what = format!("cannot read the picture {}", file.display());
        Error::input(what).because(e.to_string()).help("remove it, or save it as PNG or JPEG again")
    })?;
    Ok(if picture.color().has_color() { picture.into_rgb8().into() } else { picture.into_luma8().into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, Rgb, RgbImage};

    fn grey(path: &Path, value: u8) {
        GrayImage::from_pixel(3, 2, Luma([value])).save(path).unwrap();
    }

    #[test]
    fn sub_folders_are_classes_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["b", "a", "c", ".hidden"] {
            fs::create_dir(dir.path().join(class)).unwrap();
        }
        grey(&dir.path().join("a/2.png"), 12);
        grey(&dir.path().join("a/1.png"), 11);
        grey(&dir.path().join("c/1.PNG"), 31);
        fs::write(dir.path().join("c/notes.txt"), "").unwrap();
        let mut warnings = Vec::new();
        let (x, y) = read_folder(dir.path(), &mut warnings, &mut Vec::new()).unwrap();
        assert_eq!(x.shape(), [3, 1, 2, 3]);
        assert_eq!([x.row(0)[0], x.row(1)[0], x.row(2)[0]], [11, 12, 31]);
        assert_eq!(y.unwrap().to_f64(), [0., 0., 2.]);
        assert!(warnings[0].ends_with("0 = a, 1 = b, 2 = c"), "{warnings:?}");
        assert!(warnings.len() == 2 && warnings[1].contains("notes.txt"), "{warnings:?}");
    }

    #[test]
    fn one_coloured_picture_makes_all_three_channels() {
        let dir = tempfile::tempdir().unwrap();
        grey(&dir.path().join("1.png"), 5);
        RgbImage::from_pixel(3, 2, Rgb([1, 2, 3])).save(dir.path().join("2.png")).unwrap();
        let (x, y) = read_folder(dir.path(), &mut Vec::new(), &mut Vec::new()).unwrap();
        assert_eq!((x.shape(), y), (&[2, 3, 2, 3][..], None));
        assert_eq!(x.row(0), [5; 18]);
        assert_eq!(x.row(1), [[1; 6], [2; 6], [3; 6]].concat());
    }

    #[test]
    fn bad_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || read_folder(dir.path(), &mut Vec::new(), &mut Vec::new()).unwrap_err().to_string();
        assert!(refused().contains("no pictures"));
        fs::write(dir.path().join("1.png"), "not a picture").unwrap();
        assert!(refused().contains("cannot read the picture"));
        grey(&dir.path().join("1.png"), 5);
        GrayImage::new(4, 4).save(dir.path().join("2.png")).unwrap();
        assert!(refused().contains("differ in size"));
    }
}
