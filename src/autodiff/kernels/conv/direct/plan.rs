//! How a pass is cut: into pieces of images, bands and blocks of rows, and tiles.

use super::{DirectConv, PlaceTile, RowBlock};
use crate::autodiff::kernels::conv::axis::{Class, TapAxis};
use crate::autodiff::real::PIECES;
use crate::autodiff::simd::{ProductTerms, WIDE, spans};
use crate::autodiff::vectors::LANES;
use std::ops::Range;

/// Elements that are worked on together, if there is a choice: they stay in the second cache.
const TOGETHER: usize = 1 << 16;

/// Rows of places that are worked on together at least: what neighbouring ones both see is copied for each.
const MIN_ROWS: usize = 4;

/// Places of a block at least, if there are as many: sums of fewer pairs take longer to begin and end than to take.
const MIN_PLACES: usize = 64;

/// Numbers of cores that small batches are cut for, however many there are: results must not depend on them.
const CORES: [usize; 4] = [1, 2, 4, 8];

impl DirectConv {
    /// `shape` is how many images, groups, channels and outputs of a group; `weights` how far the weights of neighbouring
    /// outputs and channels lie apart.
    ///
    /// # Errors
    /// If the images are too large.
    pub fn new(axes: [TapAxis; 2], shape: [usize; 4], weights: [usize; 2]) -> Result<DirectConv, String> {
        let [images, groups, channels, outputs] = shape;
        let [rows, columns] = TapAxis::ordered(axes);
        let axes = [cut(rows, images), columns];
        let taps = axes[0].taps * axes[1].taps;
        let (width, ranges) = blocks_of(&axes, shape);
        let most = |of: fn(&[Range<usize>; 2]) -> usize| ranges.iter().map(of).max().unwrap_or(0);
        // Places that read nothing begin somewhere, too.
        let pitch = apart(most(|[_, seen]| seen.len().max(1)) * axes[1].elements * width);
        let spread = apart(most(|[rows, _]| rows.len()) * axes[1].outputs * width);
        let columns = (0..axes[1].taps).map(|tap| axes[1].run(tap, 0..axes[1].outputs)).collect();
        let (classes, blocks) = (Vec::new(), Vec::new());
        let mut pass = DirectConv {
            images,
            groups,
            channels,
            outputs,
            axes,
            columns,
            taps,
            weights,
            width,
            pitch,
            spread,
            classes,
            blocks,
        };
        let classes = pass.axes.each_ref().map(TapAxis::classes);
        let pairs = || classes[0].iter().flat_map(|y| classes[1].iter().map(move |x| [y, x]));
        pass.classes = pairs().map(|of| pass.terms(of)).collect::<Result<_, _>>()?;
        let block = |[rows, seen]: [Range<usize>; 2]| {
            let tiles = pairs().enumerate().flat_map(|(class, of)| pass.tiles(class, of, &rows, &seen)).collect();
            RowBlock { rows, seen, tiles }
        };
        pass.blocks = ranges.into_iter().map(block).collect();
        Ok(pass)
    }

    /// What places of two classes read of every channel, and by which weights.
    fn terms(&self, [y, x]: [&Class; 2]) -> Result<ProductTerms, String> {
        let reads = || y.reads.iter().flat_map(|y| x.reads.iter().map(move |x| [y, x]));
        let channel = |channel| {
            reads().map(move |[y, x]| {
                let far = (y[1] * self.axes[1].elements + x[1]) * self.width;
                [channel * self.pitch + far, channel * self.taps + y[0] * self.axes[1].taps + x[0]]
            })
        };
        ProductTerms::new((0..self.channels).flat_map(channel))
    }

    /// The places of two classes in some rows.
    fn tiles(&self, class: usize, [y, x]: [&Class; 2], rows: &Range<usize>, seen: &Range<usize>) -> Vec<PlaceTile> {
        let [start, end] = [rows.start, rows.end].map(|row| y.outputs.partition_point(|place| place[0] < row));
        let places = y.outputs[start..end].iter().flat_map(|&[row, first]| {
            let from = move |x| if y.reads.is_empty() { 0 } else { (first - seen.start) * self.axes[1].elements + x };
            let to = (row - rows.start) * self.axes[1].outputs;
            x.outputs.iter().map(move |x| [from(x[1]), to + x[0]])
        });
        let vectors = |at: [usize; 2]| (0..self.width).step_by(LANES).map(move |l| at.map(|at| at * self.width + l));
        let found: Vec<[usize; 2]> = places.flat_map(vectors).collect();
        let tile = |(at, len): (usize, usize)| {
            let pick = |end: usize| std::array::from_fn(|i| if i < len { found[at + i][end] } else { 0 });
            PlaceTile { class, from: pick(0), to: pick(1), len }
        };
        spans(found.len(), WIDE).map(tile).collect()
    }
}

/// Images of a piece of the work: whole vectors.
pub fn piece(images: usize, bands: usize) -> usize {
    images.div_ceil(PIECES).max(1).next_multiple_of(LANES / bands)
}

/// Rows in bands that fill vectors and cores where images do not: as many as take the least time, which is one for the
/// results of a row and one for what is read of it, over all numbers of cores.
fn cut(rows: TapAxis, images: usize) -> TapAxis {
    let time = |axis: &TapAxis| {
        let piece = piece(images, axis.bands);
        let pieces = images.div_ceil(piece);
        let turns: usize = CORES.iter().map(|&cores| pieces.next_multiple_of(cores)).sum();
        turns * piece * axis.bands * (axis.outputs + axis.elements)
    };
    let banded = (1..=LANES.ilog2()).map(|n| rows.banded(1 << n));
    std::iter::once(rows.clone()).chain(banded).min_by_key(time).unwrap_or(rows)
}

/// Lanes that are worked on together, the rows of each block, and what those see.
fn blocks_of([y, x]: &[TapAxis; 2], [images, _, channels, outputs]: [usize; 4]) -> (usize, Vec<[Range<usize>; 2]>) {
    // As many images as fit, then as many rows.
    let row = (LANES * (channels * x.elements + outputs * x.outputs)).max(1);
    let all = y.elements.max(y.outputs).max(1);
    let vectors = piece(images, y.bands) * y.bands / LANES;
    let together = (TOGETHER / (row * all)).clamp(1, vectors);
    let least = MIN_ROWS.max(MIN_PLACES.div_ceil(x.outputs.max(1)));
    let per_block = (TOGETHER / row).clamp(least, y.outputs.max(least));
    let per_block = if together > 1 { all } else { y.outputs.div_ceil(y.outputs.div_ceil(per_block).max(1)) };
    let rows = (0..y.outputs).step_by(per_block.max(1)).map(|row| row..y.outputs.min(row + per_block));
    (together * LANES, rows.map(|rows| [rows.clone(), y.seen(rows)]).collect())
}

/// Room for `n` elements: an odd number of vectors, so that channels do not compete for the same places of the cache.
fn apart(n: usize) -> usize {
    (n.div_ceil(LANES) | 1) * LANES
}
