//! NumPy's files: one array (`.npy`) or a zip archive of them (`.npz`).

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use zip::ZipArchive;

use super::NUMPY;
use super::array::{Array, Dtype, byte_len, describe};
use crate::error::{Error, Result};

/// Longest header that is believed; NumPy itself stops at 10,000 bytes unless told otherwise.
const MAX_HEADER: usize = 1 << 20;

/// Reads an `.npz`: its arrays by name, in the file's order. An entry that is no numeric array keeps the reason why,
/// which matters only to those who want that entry.
pub(super) fn read_npz(path: &Path, file: File) -> Result<Vec<(String, Result<Array, String>)>> {
    let broken = |e: zip::result::ZipError| {
        Error::input(format!("cannot read {}", path.display())).because(e.to_string()).help(NUMPY)
    };
    let mut zip = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut arrays = Vec::new();
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(broken)?;
        if entry.is_dir() {
            continue;
        }
        let file_name = entry.name().to_owned();
        let array = match file_name.strip_suffix(".npy") {
            Some(name) => (name.to_owned(), read_npy(&mut entry)),
            None => (file_name, Err("it is not a .npy entry".into())),
        };
        arrays.push(array);
    }
    Ok(arrays)
}

/// Reads one array, from where its magic starts. Memory grows with the data that is there, not with what the header
/// claims.
pub(super) fn read_npy(from: &mut impl Read) -> Result<Array, String> {
    let ended = |e: std::io::Error| format!("it ends early or is damaged ({e})");
    let mut start = [0; 8];
    from.read_exact(&mut start).map_err(ended)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err("it does not start with NumPy's magic".into());
    }
    let header_len = if start[6] == 1 {
        let mut len = [0; 2];
        from.read_exact(&mut len).map_err(ended)?;
        u16::from_le_bytes(len) as usize
    } else {
        let mut len = [0; 4];
        from.read_exact(&mut len).map_err(ended)?;
        u32::from_le_bytes(len) as usize
    };
    if header_len > MAX_HEADER {
        return Err(format!("its header claims {header_len} bytes"));
    }
    let mut header = vec![0; header_len];
    from.read_exact(&mut header).map_err(ended)?;
    let Header { dtype, big_endian, fortran, shape } = Header::parse(&String::from_utf8_lossy(&header))?;

    let claimed = describe(dtype, shape.iter().copied());
    let want = byte_len(dtype, &shape).ok_or_else(|| format!("{claimed} is larger than memory"))?;
    let mut bytes = Vec::new();
    from.take(want as u64 + 1).read_to_end(&mut bytes).map_err(ended)?;
    if bytes.len() != want {
        let has = if bytes.len() > want { "more".into() } else { bytes.len().to_string() };
        return Err(format!("{claimed} takes {want} bytes, the file has {has}"));
    }
    if big_endian {
        bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if fortran {
        bytes = c_order(&bytes, &shape, dtype.size());
    }
    Array::new(dtype, shape, bytes).map_err(|e| e.to_string())
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

struct Header {
    dtype: Dtype,
    big_endian: bool,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Parses the Python dict that NumPy writes: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str) -> Result<Header, String> {
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
        let shape = shape.map(|d| d.trim_end_matches('L').parse()).collect::<Result<_, _>>().map_err(|_| damaged())?;
        Ok(Header { dtype, big_endian, fortran, shape })
    }
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

/// Reorders elements of `size` bytes from Fortran order (first index fastest) to C order.
fn c_order(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = size;
    for &d in shape {
        strides.push(stride);
        stride *= d;
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while out.len() < bytes.len() {
        out.extend_from_slice(&bytes[at..at + size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

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

    fn parse(bytes: &[u8]) -> Result<Array, String> {
        read_npy(&mut &bytes[..])
    }

    #[test]
    fn reads_plain_fortran_and_big_endian_arrays() {
        let c = parse(&npy("|u1", false, "(2, 3)", &[1, 2, 3, 4, 5, 6])).unwrap();
        assert_eq!((c.shape(), c.to_f64()), (&[2, 3][..], vec![1., 2., 3., 4., 5., 6.]));
        let f = parse(&npy("|u1", true, "(2, 3)", &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!(c, f);
        let f = parse(&npy("<i2", true, "(2, 1, 2)", &[1, 0, 3, 0, 2, 0, 4, 0])).unwrap();
        assert_eq!(f.to_f64(), [1., 2., 3., 4.]);
        let big = parse(&npy(">i2", false, "(2,)", &[1, 0, 0, 2])).unwrap();
        assert_eq!(big.to_f64(), [256., 2.]);
        let scalar = parse(&npy("<f4", true, "()", &1.5f32.to_le_bytes())).unwrap();
        assert_eq!((scalar.shape(), scalar.to_f64()), (&[][..], vec![1.5]));
        assert_eq!(parse(&npy("<f8", true, "(0, 5)", &[])).unwrap().shape(), [0, 5]);
    }

    #[test]
    fn damaged_arrays_are_refused_with_the_reason() {
        let good = npy("<f4", false, "(2,)", &[0; 8]);
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "cut at {cut}");
        }
        for (file, reason) in [
            (npy("<f4", false, "(2,)", &[0; 9]), "the file has more"),
            (npy("<f4", false, "(9000000000000,)", &[0; 8]), "the file has 8"),
            (npy("<f4", false, "(9000000000000, 9000000000000)", &[]), "larger than memory"),
            (npy("<f4", false, "(-1,)", &[]), "header is damaged"),
            (npy("<U5", false, "(1,)", &[0; 20]), "dtype `<U5` is not numeric"),
            (npy("|O", false, "(1,)", &[0; 8]), "dtype `|O` is not numeric"),
            (npy("<c8", false, "(1,)", &[0; 8]), "dtype `<c8` is not numeric"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "header claims 4294967295 bytes"),
        ] {
            let e = parse(&file).unwrap_err();
            assert!(e.contains(reason), "{e}");
        }
    }
}
