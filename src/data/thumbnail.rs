//! Samples as small pictures, for people to look at.

use super::Array;
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage, imageops::FilterType};
use std::io::Cursor;

/// Pixels along a side; smaller pictures stay as they are.
const SIDE: u32 = 64;

/// One row of [N,C,H,W] as a PNG, where C is that of grey or of red, green, blue. Numbers that were normalised are stretched
/// to what a picture has.
pub fn thumbnail(array: &Array, row: usize) -> Option<Vec<u8>> {
    let &[n, c @ (1 | 3), h, w] = array.shape() else { return None };
    if row >= n || h < 4 || w < 4 {
        return None;
    }
    let area = h.checked_mul(w)?;
    let width = array.dtype().size();
    let bytes = array.bytes().get(row * c * area * width..(row + 1) * c * area * width)?;
    let values = Array::new(array.dtype(), vec![c, area], bytes.to_vec()).ok()?.to_f32();
    let finite = || values.iter().filter(|v| v.is_finite());
    let low = finite().fold(f32::INFINITY, |a, &b| a.min(b));
    let high = finite().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let pixel = |v: f32| if high > low { ((v - low) / (high - low) * 255.0) as u8 } else { 0 };
    let pixels: Vec<u8> =
        (0..area).flat_map(|at| (0..c).map(move |c| c * area + at)).map(|i| pixel(values[i])).collect();
    let (h, w) = (u32::try_from(h).ok()?, u32::try_from(w).ok()?);
    let picture = match c {
        1 => DynamicImage::ImageLuma8(GrayImage::from_raw(w, h, pixels)?),
        _ => DynamicImage::ImageRgb8(RgbImage::from_raw(w, h, pixels)?),
    };
    let small = if h.max(w) > SIDE { picture.resize(SIDE, SIDE, FilterType::Triangle) } else { picture };
    let mut png = Cursor::new(Vec::new());
    small.write_to(&mut png, ImageFormat::Png).ok()?;
    Some(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_becomes_a_picture_of_its_own_range() {
        let mut values = vec![0.5f32; 2 * 3 * 80 * 40];
        // The second sample is darkest at its first pixel, which is red only.
        values[3 * 80 * 40..].fill(-1.0);
        values[3 * 80 * 40] = 3.0;
        let array = Array::from_f32(vec![2, 3, 80, 40], &values).unwrap();
        let read = |row| image::load_from_memory(&thumbnail(&array, row).unwrap()).unwrap().to_rgb8();
        assert_eq!(read(1).dimensions(), (32, 64));
        assert!(read(1).get_pixel(0, 0).0[0] > 100 && read(1).get_pixel(0, 0).0[1] == 0);
        assert!(read(0).pixels().all(|p| p.0 == [0, 0, 0]));
        assert!(thumbnail(&array, 2).is_none());
        assert!(thumbnail(&Array::from_f32(vec![1, 2, 8, 8], &[0.0; 128]).unwrap(), 0).is_none());
    }
}
