//! NumPy's files: one array (`.npy`) or a zip archive of them (`.npz`).

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use zip::{CompressionMethod, ZipArchive};

use super::NUMPY;
use super::array::Dtype;
use super::member::Member;
use super::stored::{ArrayLayout, Stored};
use crate::error::{Error, Result};

/// Longest header that is believed; NumPy itself stops at 10,000 bytes unless told otherwise.
const MAX_HEADER: usize = 1 << 20;

/// The arrays of an `.npz` by name, in the file's order. An entry that is no numeric array keeps the reason why, which
/// matters only to those who want that entry.
pub(super) fn open_npz(path: &Path, file: File, len: u64) -> Result<Vec<(String, Result<Stored, String>)>> {
    let broken = |e: String| Error::input(format!("cannot read {}", path.display())).because(e.to_string()).help(NUMPY);
    let again = file.try_clone().map_err(|e| broken(e.to_string()))?;
    let mut zip = ZipArchive::new(BufReader::new(again)).map_err(|e| broken(e.to_string()))?;
    let all = Member::all(file, len);
    let mut arrays = Vec::new();
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(|e| broken(e.to_string()))?;
        if entry.is_dir() {
            continue;
        }
        let file_name = entry.name().to_owned();
        let (start, stored, size) = (entry.data_start(), entry.compressed_size(), entry.size());
        let part = |deflated| all.part(start, stored, size, deflated, entry.crc32()).and_then(open_npy);
        let array = match (file_name.strip_suffix(".npy"), entry.compression()) {
            (None, _) => (file_name, Err("it is not a .npy entry".into())),
            (Some(name), _) if entry.encrypted() => (name.to_owned(), Err("it is encrypted".into())),
            (Some(name), CompressionMethod::Stored) => (name.to_owned(), part(false)),
            (Some(name), CompressionMethod::Deflated) => (name.to_owned(), part(true)),
            (Some(name), other) => (name.to_owned(), Err(format!("it is packed by {other}, not by deflate"))),
        };
        arrays.push(array);
    }
    Ok(arrays)
}

/// An array whose magic is at the start of `member`. Only its header is read.
pub(super) fn open_npy(member: Member) -> Result<Stored, String> {
    let ended = |e: std::io::Error| format!("it ends early or is damaged ({e})");
    let mut from = member.open();
    let mut start = [0; 8];
    from.read_exact(&mut start).map_err(ended)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err("it does not start with NumPy's magic".into());
    }
    let mut len = [0; 4];
    let width = if start[6] == 1 { 2 } else { 4 };
    from.read_exact(&mut len[..width]).map_err(ended)?;
    let header_len = u32::from_le_bytes(len) as usize;
    if header_len > MAX_HEADER {
        return Err(format!("its header claims {header_len} bytes"));
    }
    let mut header = vec![0; header_len];
    from.read_exact(&mut header).map_err(ended)?;
    let form = parse(&String::from_utf8_lossy(&header))?;
    let want = form.byte_len().ok_or_else(|| format!("{form} is larger than memory"))?;
    let skip = (start.len() + width + header_len) as u64;
    let has = member.len.saturating_sub(skip);
    if has != want as u64 {
        return Err(format!("{form} takes {want} bytes, the file has {has}"));
    }
    let rows = member.rows(skip, &form);
    Ok(Stored::new(form, rows))
}

/// Whether a file holds `.npz` or `.npy`, by its first bytes; `None` if neither. Leaves the file at its start.
pub(super) fn is_npz(file: &mut File) -> std::io::Result<Option<bool>> {
    let mut magic = Vec::new();
    file.by_ref().take(6).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok(match &magic[..] {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(true),
        b"\x93NUMPY" => Some(false),
        _ => None,
    })
}

/// Parses the Python dict that NumPy writes: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(text: &str) -> Result<ArrayLayout, String> {
    let damaged = || format!("its header is damaged: {}", text.trim_end().chars().take(80).collect::<String>());
    let field = |key: &str| {
        ['\'', '"'].iter().find_map(|quote| {
            let (_, rest) = text.split_once(&format!("{quote}{key}{quote}"))?;
            Some(rest.trim_start().strip_prefix(':')?.trim_start())
        })
    };
    let descr = field("descr").ok_or_else(damaged)?;
    let Some(quote) = descr.chars().next().filter(|c| matches!(c, '\'' | '"')) else {
        return Err("it has records, not numbers".into());
    };
    let (descr, _) = descr[1..].split_once(quote).ok_or_else(damaged)?;
    let (big_endian, dtype) = parse_descr(descr).ok_or_else(|| format!("its dtype `{descr}` is not numeric"))?;

    let fortran = field("fortran_order").ok_or_else(damaged)?.starts_with("True");
    let shape = field("shape").and_then(|s| s.strip_prefix('(')?.split_once(')')).ok_or_else(damaged)?.0;
    let shape = shape.split(',').map(str::trim).filter(|d| !d.is_empty());
    let shape: Vec<usize> =
        shape.map(|d| d.trim_end_matches('L').parse()).collect::<Result<_, _>>().map_err(|_| damaged())?;
    // An array of one axis or none is the same in both orders.
    let fortran = fortran && shape.len() > 1;
    Ok(ArrayLayout { dtype, shape, big_endian, fortran })
}

/// `<f4` is little-endian f32. Returns whether it is big-endian, and the dtype.
fn parse_descr(descr: &str) -> Option<(bool, Dtype)> {
    let big = descr.starts_with('>');
    let dtype = match descr.trim_start_matches(['<', '>', '=', '|']) {
        "b1" | "?" => Dtype::Bool,
        "u1" => Dtype::U8,
        "i1" => Dtype::I8,
        "u2" => Dtype::U16,
        "i2" => Dtype::I16,
        "u4" => Dtype::U32,
        "i4" => Dtype::I32,
        "u8" => Dtype::U64,
        "i8" => Dtype::I64,
        "f2" => Dtype::F16,
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        _ => return None,
    };
    Some((big, dtype))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::data::Array;
    use std::io::Write;
    use zip::write::SimpleFileOptions;

    /// A version 1 `.npy` file; `shape` as in Python.
    pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let fortran = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.bytes());
        out.extend(data);
        out
    }

    fn open(bytes: &[u8]) -> Result<Stored, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        open_npy(Member::all(file, bytes.len() as u64))
    }

    fn read(bytes: &[u8]) -> Result<Array, String> {
        open(bytes)?.whole().cloned()
    }

    #[test]
    fn reads_plain_fortran_and_big_endian_arrays() {
        let c = read(&npy("|u1", false, "(2, 3)", &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!((c.shape(), c.to_f64()), (&[2, 3][..], vec![1., 2., 3., 4., 5., 6.]));
        let f = read(&npy("|u1", true, "(2, 3)", &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(c, f);
        let f = read(&npy("<i2", true, "(2, 1, 2)", &[1, 0, 3, 0, 2, 0, 4, 0])).unwrap();
        assert_eq!(f.to_f64(), [1., 2., 3., 4.]);
        let big = read(&npy(">i2", false, "(2,)", &[1, 0, 0, 2])).unwrap();
        assert_eq!(big.to_f64(), [256., 2.]);
        let large = open(&npy(">i2", false, "(2,)", &[1, 0, 0, 2])).unwrap().with_at_once(0);
        let mut row = Vec::new();
        large.append(1, &mut row).unwrap();
        assert_eq!(row, [2, 0]);
        let scalar = read(&npy("<f4", true, "()", &1.5f32.to_le_bytes())).unwrap();
        assert_eq!((scalar.shape(), scalar.to_f64()), (&[][..], vec![1.5]));
        assert_eq!(read(&npy("<f8", true, "(0, 5)", &[])).unwrap().shape(), [0, 5]);
    }

    #[test]
    fn damaged_arrays_are_refused_with_the_reason() {
        let good = npy("<f4", false, "(2,)", &[0; 8]);
        for cut in 0..good.len() {
            assert!(read(&good[..cut]).is_err(), "cut at {cut}");
        }
        for (file, reason) in [
            (npy("<f4", false, "(2,)", &[0; 9]), "the file has 9"),
            (npy("<f4", false, "(9000000000000,)", &[0; 8]), "the file has 8"),
            (npy("<f4", false, "(9000000000000, 9000000000000)", &[]), "larger than memory"),
            (npy("<f4", false, "(-1,)", &[]), "header is damaged"),
            (npy("<U5", false, "(1,)", &[0; 20]), "dtype `<U5` is not numeric"),
            (npy("|O", false, "(1,)", &[0; 8]), "dtype `|O` is not numeric"),
            (npy("<c8", false, "(1,)", &[0; 8]), "dtype `<c8` is not numeric"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "header claims 4294967295 bytes"),
        ] {
            let e = read(&file).unwrap_err();
            assert!(e.contains(reason), "{e}");
        }
    }

    fn npz(packed: bool, arrays: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let method = if packed { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        for (name, bytes) in arrays {
            zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn members(bytes: &[u8]) -> Vec<(String, Result<Stored, String>)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        open_npz(Path::new("d.npz"), file, bytes.len() as u64).unwrap()
    }

    #[test]
    fn rows_of_a_large_member_come_alone_and_in_any_order() {
        let numbers: Vec<u8> = (0..2000u16).flat_map(u16::to_be_bytes).collect();
        let array = npy(">u2", false, "(1000, 2)", &numbers);
        for packed in [true, false] {
            let file = npz(packed, &[("x.npy", array.clone()), ("notes.txt", vec![1])]);
            let [x, notes] = members(&file).try_into().ok().unwrap();
            assert!(notes.1.is_err());
            let x = x.1.unwrap().with_at_once(100);
            for rows in [[5, 900], [7, 999], [0, 1]] {
                x.hold(&rows.into()).unwrap();
                let mut bytes = Vec::new();
                rows.iter().for_each(|&row| x.append(row, &mut bytes).unwrap());
                let want = rows.iter().flat_map(|&row| [2 * row as u16, 2 * row as u16 + 1]);
                assert_eq!(bytes, want.flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
            }
            assert_eq!(x.whole().unwrap().to_f64(), (0..2000).map(f64::from).collect::<Vec<_>>());
        }
    }

    #[test]
    fn members_that_are_not_what_the_archive_says_are_refused() {
        let array = npy("|u1", false, "(1000,)", &[7; 1000]);
        for packed in [true, false] {
            let good = npz(packed, &[("x.npy", array.clone())]);
            let find = |what: &[u8]| good.windows(what.len()).rposition(|w| w == what).unwrap();
            let refused = |at: usize, byte: u8| {
                let mut bad = good.clone();
                bad[at] = byte;
                let (_, x) = members(&bad).remove(0);
                x.and_then(|x| x.whole().cloned()).unwrap_err()
            };
            // In the central directory, the checksum is at 16, the sizes at 20 and 24.
            let entry = find(b"PK\x01\x02");
            assert!(refused(entry + 16, good[entry + 16] ^ 1).contains("checksum"));
            assert!(refused(entry + 23, 1).contains("ends early"));
            assert!(refused(entry + 26, 255).contains("cannot hold") || packed);
            assert!(refused(entry + 24, good[entry + 24] ^ 1).contains("takes 1000 bytes") || !packed);
        }
    }
}
