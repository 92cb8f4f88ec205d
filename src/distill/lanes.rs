//! Numbers of several images side by side: every lane of a vector is another image.

use super::real::Real;
use super::simd::{LANES, transposed, widest};

/// Where a stretch of numbers lies in images: in the first, and how far apart it is in neighbouring ones; how many images
/// there are, and how long it is.
#[derive(Clone, Copy)]
pub struct Stretch {
    pub first: usize,
    pub apart: usize,
    pub images: usize,
    pub len: usize,
}

impl Stretch {
    fn at(&self, image: usize, element: usize) -> usize {
        self.first + image * self.apart + element
    }

    /// Of the eight images from one on: how many there are, and how many elements come in blocks of eight by eight.
    fn blocks(&self, image: usize) -> [usize; 2] {
        let images = self.images.saturating_sub(image).min(LANES);
        [images, if images == LANES { self.len / LANES * LANES } else { 0 }]
    }
}

/// Element after element of images, those of all `width` images side by side; zeros for images that there are none of.
pub fn gather<T: Real>(from: &[T], here: Stretch, to: &mut [T], width: usize) {
    widest(
        #[inline(always)]
        |fused| {
            for group in (0..width).step_by(LANES) {
                let [images, whole] = here.blocks(group);
                for at in (0..whole).step_by(LANES) {
                    let mut block = [[T::ZERO; LANES]; LANES];
                    for (i, row) in block.iter_mut().enumerate() {
                        row.copy_from_slice(&from[here.at(group + i, at)..][..LANES]);
                    }
                    for (j, row) in transposed(fused, block).iter().enumerate() {
                        to[(at + j) * width + group..][..LANES].copy_from_slice(row);
                    }
                }
                for at in whole..here.len {
                    let to = &mut to[at * width + group..][..LANES];
                    to.fill(T::ZERO);
                    to.iter_mut().take(images).enumerate().for_each(|(i, to)| *to = from[here.at(group + i, at)]);
                }
            }
        },
    );
}

/// The way back: every number is set to what `f` makes of it and of the one that it gets.
pub fn scatter<T: Real>(from: &[T], width: usize, to: &mut [T], there: Stretch, f: impl Fn(T, T) -> T) {
    widest(
        #[inline(always)]
        |fused| {
            for group in (0..width).step_by(LANES) {
                let [images, whole] = there.blocks(group);
                for at in (0..whole).step_by(LANES) {
                    let mut block = [[T::ZERO; LANES]; LANES];
                    for (j, row) in block.iter_mut().enumerate() {
                        row.copy_from_slice(&from[(at + j) * width + group..][..LANES]);
                    }
                    for (i, row) in transposed(fused, block).iter().enumerate() {
                        let to = to[there.at(group + i, at)..].as_chunks_mut::<LANES>().0;
                        to[0].iter_mut().zip(row).for_each(|(to, &new)| *to = f(*to, new));
                    }
                }
                for at in whole..there.len {
                    for i in 0..images {
                        let to = &mut to[there.at(group + i, at)];
                        *to = f(*to, from[at * width + group + i]);
                    }
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let from: Vec<f32> = (1..1000).map(|i| i as f32).collect();
        for (images, len, width) in [(8, 16, 8), (8, 21, 8), (16, 9, 16), (11, 17, 16), (3, 10, 8), (0, 3, 8)] {
            let here = Stretch { first: 5, apart: 40, images, len };
            let mut lanes = vec![-1.0f32; len * width];
            gather(&from, here, &mut lanes, width);
            for (at, &found) in lanes.iter().enumerate() {
                let (element, image) = (at / width, at % width);
                assert_eq!(found, if image < images { from[here.at(image, element)] } else { 0.0 });
            }
            let mut back = vec![0.5; from.len()];
            scatter(&lanes, width, &mut back, here, |old, new| old + new);
            let mut want = vec![0.5; from.len()];
            for (image, element) in (0..images).flat_map(|i| (0..len).map(move |e| (i, e))) {
                want[here.at(image, element)] += from[here.at(image, element)];
            }
            assert_eq!(back, want);
        }
    }
}
