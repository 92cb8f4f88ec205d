//! A folder of pictures, or of files of arrays, as a data set.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::imageops::FilterType;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageReader, Luma};
use rayon::prelude::*;

use super::array::{Array, Dtype};
use super::classes::{self, ordered};
use super::parts;
use super::stored::{Access, RowShapes, RowSource, Stored};
use super::{Color, Dataset, PictureSize, Pictures};
use crate::error::{Error, Result, io, reading};

/// Pictures that are decoded side by side.
const TOGETHER: usize = 64;

/// Opens a folder: `x` is u8 [N,C,H,W], C being 1 for grey and 3 for red, green, blue; if it has sub-folders, `y` is i64
/// [N], the place of the picture's sub-folder among the classes. Pictures come class by class in the order of their names;
/// hidden files are passed over, other entries named in a warning. Of the pictures only the headers are read.
///
/// A folder of whose own files more are .npy or .npz than pictures holds these, one after the other; so do class folders of such
/// files without pictures, with `y`.
pub(super) fn open_folder(folder: &Path, pictures: &Pictures) -> Result<Dataset> {
    let mut data = Dataset::empty(folder.display().to_string());
    data.files.push(folder.to_path_buf());
    let mut top = list(folder)?;
    let arrays: Vec<PathBuf> = top.others.iter().filter(|p| p.is_file() && parts::is_array(p)).cloned().collect();
    if arrays.len() > top.files.len() {
        let inner = top.folders.iter().map(|p| list(p)).collect::<Result<Vec<_>>>()?;
        if inner.iter().all(|inner| inner.files.is_empty()) {
            top.others.retain(|p| !arrays.contains(p));
            top.others.append(&mut top.folders);
            top.others.append(&mut top.files);
            return parts::open_folder(data, arrays, &top.others);
        }
    }
    if arrays.is_empty() && top.files.is_empty() && !top.folders.is_empty() {
        let inner = top.folders.iter().map(|p| list(p)).collect::<Result<Vec<_>>>()?;
        let has_arrays = |inner: &Listed| inner.others.iter().any(|p| p.is_file() && parts::is_array(p));
        if inner.iter().all(|inner| inner.files.is_empty()) && inner.iter().any(has_arrays) {
            return class_folders_of_arrays(folder, data, top, inner, pictures);
        }
    }
    data.pictures = true;
    let labelled = !top.folders.is_empty();
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    if labelled {
        let is_list = |p: &PathBuf| p.file_name().is_some_and(|name| name == classes::LIST);
        top.files.retain(|p| !is_list(p));
        top.others.retain(|p| !is_list(p));
        let names: Vec<String> = top.folders.iter().map(|p| name_of(p)).collect();
        data.classes = ordered(folder, names.clone(), pictures, &mut data.warnings)?;
        data.files.extend(classes::list_of(folder, pictures));
        top.others.append(&mut top.files);
        for (label, class) in data.classes.iter().enumerate() {
            let Some(place) = names.iter().position(|name| name == class) else { continue };
            let mut inner = list(&top.folders[place])?;
            if inner.files.is_empty() {
                let class = top.folders[place].display();
                data.warnings.push(format!("{class}: the class folder has no pictures"));
            }
            top.others.append(&mut inner.folders);
            top.others.append(&mut inner.others);
            labels.resize(labels.len() + inner.files.len(), label as i64);
            files.append(&mut inner.files);
        }
    } else {
        if pictures.classes.is_some() {
            data.warnings.push(format!("{}: it has no class folders for `classes`", data.name));
        }
        files = top.files;
    }
    if let Some(first) = top.others.first() {
        let what = match first.metadata() {
            Ok(meta) if !meta.is_file() && !meta.is_dir() => " (a pipe, a socket or a device)",
            Err(_) => " (a broken link)",
            _ => "",
        };
        let (n, first, of) = (top.others.len(), first.display(), if labelled { " of a class" } else { "" });
        let these =
            if n == 1 { "1 entry that is no picture".into() } else { format!("{n} entries that are no pictures") };
        data.warnings.push(format!("{}: ignored {these}{of}, {first}{what} first", data.name));
    }
    data.files.extend(top.folders);
    data.files.extend(files.iter().cloned());
    if files.is_empty() {
        return Err(Error::input(format!("no pictures in {}", folder.display()))
            .because("it has no .png, .jpg or .jpeg file, itself or in its sub-folders")
            .help("put one sub-folder a class in it, or give .npy or .npz files"));
    }
    let heads: Vec<Result<PictureHeader>> = files.par_iter().map(|file| look(file)).collect();
    let heads: Vec<PictureHeader> = heads.into_iter().collect::<Result<_>>()?;
    let sizes: Vec<PictureSize> = heads.iter().map(|head| pictures.resize.unwrap_or(head.size)).collect();
    let color = match pictures.color {
        Some(color) => color,
        None if heads.iter().all(|head| !head.colored) => Color::Grey,
        None => {
            data.mixed = mixed(&files, &heads);
            data.warnings.extend(data.mixed.iter().map(|mixed| format!("{}: {mixed}", folder.display())));
            Color::Rgb
        }
    };
    let channels = if color == Color::Grey { 1 } else { 3 };
    let shapes = sizes.iter().map(|size| vec![channels, size.height as usize, size.width as usize]);
    let (count, shapes) = (files.len(), RowShapes::new(shapes));
    let rows = Folder { files, sizes, resize: pictures.resize.is_some(), color };
    let x = Stored::mixed(Dtype::U8, count, shapes, Box::new(rows));
    data.arrays.push(("x".into(), Ok(Arc::new(x))));
    if labelled {
        let y = labels.iter().flat_map(|l| l.to_le_bytes()).collect();
        data.arrays.push(("y".into(), Ok(super::kept(Array::new(Dtype::I64, vec![labels.len()], y)?))));
    }
    Ok(data)
}

/// Files of arrays in class folders.
fn class_folders_of_arrays(
    folder: &Path,
    mut data: Dataset,
    top: Listed,
    inner: Vec<Listed>,
    pictures: &Pictures,
) -> Result<Dataset> {
    let names: Vec<String> = top.folders.iter().map(|p| name_of(p)).collect();
    data.classes = ordered(folder, names.clone(), pictures, &mut data.warnings)?;
    data.files.extend(classes::list_of(folder, pictures));
    let (mut files, mut others) = (Vec::new(), top.others);
    others.retain(|p| name_of(p) != classes::LIST);
    for (label, class) in data.classes.iter().enumerate() {
        let Some(inner) = names.iter().position(|name| name == class).map(|at| &inner[at]) else { continue };
        let (arrays, rest): (Vec<_>, Vec<_>) =
            inner.others.iter().cloned().partition(|p| p.is_file() && parts::is_array(p));
        files.extend(arrays.into_iter().map(|p| (p, label as i64)));
        others.extend(rest.into_iter().chain(inner.folders.iter().cloned()));
    }
    data.files.extend(top.folders);
    parts::open_classes(data, files, &others)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder, each sorted by name, without what systems put beside the files of their users.
struct Listed {
    folders: Vec<PathBuf>,
    /// Those that should be pictures by their names.
    files: Vec<PathBuf>,
    others: Vec<PathBuf>,
}

fn list(folder: &Path) -> Result<Listed> {
    let failed = |e| io("read the folder", folder, &e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") && name != "__MACOSX" {
            entries.push(entry.path());
        }
    }
    entries.sort();
    let is_picture = |p: &Path| {
        let extension = p.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        matches!(extension.as_str(), "png" | "jpg" | "jpeg")
    };
    let (folders, files): (Vec<_>, Vec<_>) = entries.into_iter().partition(|p| p.is_dir());
    // To open a pipe is to wait for whoever writes into it.
    let (files, others) = files.into_iter().partition(|p| p.is_file() && is_picture(p));
    Ok(Listed { folders, files, others })
}

/// What the header of a picture says.
struct PictureHeader {
    size: PictureSize,
    colored: bool,
}

fn look(file: &Path) -> Result<PictureHeader> {
    let decoder = reader(file)?.into_decoder().map_err(|e| unreadable(file, &e))?;
    let (width, height) = decoder.dimensions();
    Ok(PictureHeader { size: PictureSize { height, width }, colored: decoder.color_type().has_color() })
}

fn reader(file: &Path) -> Result<ImageReader<std::io::BufReader<fs::File>>> {
    ImageReader::open(file).and_then(ImageReader::with_guessed_format).map_err(|e| io("read", file, &e))
}

fn unreadable(file: &Path, e: &image::ImageError) -> Error {
    let what = format!("cannot read the picture {}", file.display());
    Error::input(what).because(e.to_string()).help("remove it, or save it as PNG or JPEG again")
}

/// That a few pictures in colour make all pictures have three channels, if it is so.
fn mixed(files: &[PathBuf], heads: &[PictureHeader]) -> Option<String> {
    let colored = heads.iter().filter(|h| h.colored).count();
    let first = files.iter().zip(heads).find(|(_, head)| head.colored)?.0;
    let few = colored < heads.len() - colored;
    few.then(|| {
        format!(
            "{colored} of {} pictures have colour, {} first, so all are read with three channels: give --color grey or rgb",
            heads.len(),
            first.display()
        )
    })
}

/// Pictures, decoded as they are asked for.
struct Folder {
    files: Vec<PathBuf>,
    /// Of each file.
    sizes: Vec<PictureSize>,
    resize: bool,
    color: Color,
}

impl RowSource for Folder {
    fn access(&self) -> Access {
        Access::Slow
    }

    fn read(&self, rows: Range<usize>, to: &mut Vec<u8>) -> Result<(), String> {
        if rows.len() == 1 {
            to.extend(self.decode(rows.start)?);
            return Ok(());
        }
        let rows: Vec<usize> = rows.collect();
        for rows in rows.chunks(TOGETHER) {
            let decoded: Vec<Result<Vec<u8>, String>> = rows.par_iter().map(|&row| self.decode(row)).collect();
            for pixels in decoded {
                to.extend(pixels?);
            }
        }
        Ok(())
    }

    fn file(&self, row: usize) -> Option<&Path> {
        self.files.get(row).map(PathBuf::as_path)
    }
}

impl Folder {
    /// Channel after channel, 8 bits each; transparency is dropped.
    fn decode(&self, row: usize) -> Result<Vec<u8>, String> {
        let (file, PictureSize { height, width }) = (&self.files[row], self.sizes[row]);
        let read = || reader(file).and_then(|r| r.decode().map_err(|e| unreadable(file, &e)));
        let picture = reading(&format!("the picture {}", file.display()), read).map_err(|e| e.reason())?;
        let mut picture = match (self.color, picture.color().has_color()) {
            (Color::Rgb, _) => picture.into_rgb8().into(),
            (Color::Grey, true) => grey(picture),
            (Color::Grey, false) => picture.into_luma8().into(),
        };
        if self.resize && (picture.height(), picture.width()) != (height, width) {
            picture = picture.resize_to_fill(width, height, FilterType::Triangle);
        }
        if (picture.height(), picture.width()) != (height, width) {
            return Err(format!("{} has another size by now", file.display()));
        }
        let (bytes, channels) = (picture.as_bytes(), usize::from(picture.color().channel_count()));
        Ok((0..channels).flat_map(|c| bytes.iter().copied().skip(c).step_by(channels)).collect())
    }
}

fn grey(picture: DynamicImage) -> DynamicImage {
    let rgb = picture.into_rgb8();
    // Weights of red, green and blue in 65,536ths, as Pillow rounds them.
    let luma = |[r, g, b]: [u8; 3]| (u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16;
    GrayImage::from_fn(rgb.width(), rgb.height(), |x, y| Luma([luma(rgb.get_pixel(x, y).0) as u8])).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{InputSpec, Normalise};
    use image::{Rgb, RgbImage};

    fn save(path: &Path, value: u8) {
        GrayImage::from_pixel(3, 2, Luma([value])).save(path).unwrap();
    }

    fn open(folder: &Path, pictures: &Pictures) -> (Array, Option<Vec<f64>>, Vec<String>) {
        let data = open_folder(folder, pictures).unwrap();
        let y = data.array("y").ok().map(Array::to_f64);
        (data.array("x").unwrap().clone(), y, data.warnings)
    }

    #[test]
    fn sub_folders_are_classes_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        for class in ["b", "a", "c", ".hidden"] {
            fs::create_dir(dir.path().join(class)).unwrap();
        }
        save(&dir.path().join("a/2.png"), 12);
        save(&dir.path().join("a/1.png"), 11);
        save(&dir.path().join("c/1.PNG"), 31);
        fs::write(dir.path().join("c/notes.txt"), "").unwrap();
        let (x, y, warnings) = open(dir.path(), &Pictures::default());
        assert_eq!(x.shape(), [3, 1, 2, 3]);
        assert_eq!([x.row(0)[0], x.row(1)[0], x.row(2)[0]], [11, 12, 31]);
        assert_eq!(y.unwrap(), [0., 0., 2.]);
        assert!(warnings.len() == 2 && warnings[0].ends_with("b: the class folder has no pictures"), "{warnings:?}");
        assert!(warnings[1].contains("notes.txt"), "{warnings:?}");
        fs::write(dir.path().join("classes.txt"), "c\nb\na\n").unwrap();
        let (x, y, warnings) = open(dir.path(), &Pictures::default());
        assert_eq!((x.row(0)[0], y.unwrap(), warnings.len()), (31, vec![0., 2., 2.], 2));
    }

    #[test]
    fn a_coloured_picture_makes_all_three_channels() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("1.png"), 5);
        RgbImage::from_pixel(3, 2, Rgb([1, 2, 30])).save(dir.path().join("2.png")).unwrap();
        let (x, y, warnings) = open(dir.path(), &Pictures::default());
        assert_eq!((x.shape(), y, warnings.len()), (&[2, 3, 2, 3][..], None, 0));
        assert_eq!(x.row(0), [5; 18]);
        assert_eq!(x.row(1), [[1; 6], [2; 6], [30; 6]].concat());
        save(&dir.path().join("3.png"), 5);
        let (_, _, warnings) = open(dir.path(), &Pictures::default());
        assert!(warnings[0].contains("1 of 3 pictures have colour") && warnings[0].contains("2.png"), "{warnings:?}");
        let (x, _, warnings) = open(dir.path(), &Pictures { color: Some(Color::Grey), ..Pictures::default() });
        assert_eq!((x.shape(), x.row(1), warnings.len()), (&[3, 1, 2, 3][..], &[5; 6][..], 0));
    }

    #[test]
    fn pictures_are_scaled_to_cover_a_size_and_cropped() {
        let dir = tempfile::tempdir().unwrap();
        // Columns 0, 10, 20, … of a picture that is twice as wide as it is high.
        GrayImage::from_fn(8, 4, |x, _| Luma([10 * x as u8])).save(dir.path().join("1.png")).unwrap();
        save(&dir.path().join("2.png"), 7);
        let resize = |text: &str| Pictures { resize: Some(text.parse().unwrap()), ..Pictures::default() };
        let (x, ..) = open(dir.path(), &resize("4x4"));
        assert_eq!((x.shape(), x.row(0)), (&[2, 1, 4, 4][..], &[20, 30, 40, 50].repeat(4)[..]));
        assert_eq!(x.row(1), [7; 16]);
        let (x, ..) = open(dir.path(), &resize("2x3"));
        assert_eq!((x.shape(), x.row(1)), (&[2, 1, 2, 3][..], &[7; 6][..]));
    }

    #[test]
    fn bad_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = || open_folder(dir.path(), &Pictures::default()).err().unwrap().to_string();
        assert!(refused().contains("no pictures"));
        fs::write(dir.path().join("1.png"), "not a picture").unwrap();
        assert!(refused().contains("cannot read the picture"));
        // A palette of one colour and two thirds: the library that reads it panics.
        let chunk = |name: &[u8], content: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(&[name, content].concat());
            let len = (content.len() as u32).to_be_bytes();
            [&len[..], name, content, &crc.sum().to_be_bytes()].concat()
        };
        let head = [0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0];
        let pixels = [0x78, 1, 1, 2, 0, 0xfd, 0xff, 0, 0, 0, 2, 0, 1];
        let chunks: [(&[u8], &[u8]); 4] = [(b"IHDR", &head), (b"PLTE", &[0; 5]), (b"IDAT", &pixels), (b"IEND", &[])];
        let chunks = chunks.map(|(name, content)| chunk(name, content)).concat();
        fs::write(dir.path().join("1.png"), [&b"\x89PNG\r\n\x1a\n"[..], &chunks].concat()).unwrap();
        let e = open_folder(dir.path(), &Pictures::default()).unwrap().array("x").unwrap_err().to_string();
        assert!(e.contains("1.png") && e.contains("breaks off"), "{e}");
    }

    #[test]
    fn pictures_of_other_sizes_are_for_models_that_leave_sides_open() {
        let dir = tempfile::tempdir().unwrap();
        GrayImage::from_pixel(4, 4, Luma([9])).save(dir.path().join("1.png")).unwrap();
        save(&dir.path().join("2.png"), 5);
        save(&dir.path().join("3.png"), 5);
        let data = open_folder(dir.path(), &Pictures::default()).unwrap();
        let spec =
            |dims: [Option<usize>; 4]| InputSpec { name: "x".into(), dtype: Dtype::F32, dims: Some(dims.into()) };
        let feed = |dims| data.feed(&[spec(dims)], &Normalise::default());
        let open = feed([None, Some(1), None, None]).unwrap();
        assert_eq!((open.shapes(0), open.shapes(1)), (vec![vec![1, 1, 4, 4]], vec![vec![1, 1, 2, 3]]));
        assert_eq!((open.chunk(0).unwrap()[0].to_f64(), open.kinds(), open.usual()), (vec![9.0; 16], 2, 1));
        let refused = |dims| feed(dims).err().unwrap().to_string();
        for fixed in [Some(2), Some(7)] {
            let e = refused([None, Some(1), fixed, Some(3)]);
            assert!(e.contains("differ in size") && e.contains("1.png is 4x4") && e.contains("2 of 3 are 2x3"), "{e}");
        }
        let e = refused([None, Some(1), Some(2), None]);
        assert!(e.contains("differ in size") && e.contains("1.png is 4x4 (height x width), 2 of 3 fit"), "{e}");
        let resized = Pictures { resize: Some("2x3".parse().unwrap()), ..Pictures::default() };
        let data = open_folder(dir.path(), &resized).unwrap();
        assert_eq!(data.array("x").unwrap().shape(), [3, 1, 2, 3]);
    }

    #[test]
    fn a_folder_holds_what_most_of_its_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let npy = |name: &str| {
            let head = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }\n";
            let bytes = [b"\x93NUMPY\x01\x00", &(head.len() as u16).to_le_bytes()[..], head.as_bytes(), &[7; 6]];
            fs::write(dir.path().join(name), bytes.concat()).unwrap();
        };
        npy("1.npy");
        npy("2.npy");
        save(&dir.path().join("plot.png"), 5);
        let data = open_folder(dir.path(), &Pictures::default()).unwrap();
        assert_eq!(data.array("x").unwrap().shape(), [4, 3]);
        assert!(data.warnings()[0].contains("ignored 1 entry") && data.warnings()[0].contains("plot.png"));
        save(&dir.path().join("other.png"), 5);
        let data = open_folder(dir.path(), &Pictures::default()).unwrap();
        assert_eq!(data.array("x").unwrap().shape(), [2, 1, 2, 3]);
        assert!(data.warnings()[0].contains("1.npy"));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_named_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        save(&dir.path().join("1.png"), 5);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("2.png")).unwrap();
        let (x, _, warnings) = open(dir.path(), &Pictures::default());
        assert_eq!(x.shape()[0], 1);
        assert!(warnings[0].contains("2.png (a pipe, a socket or a device)"), "{warnings:?}");
    }
}
