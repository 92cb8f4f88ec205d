//! Operators that sample maps where other inputs say: RoiAlign, GridSample.
//! (ONNX Operators: RoiAlign, since 10, 16, 22; GridSample, since 16, 20, 22.)

use crate::ir::attr::{Attr, AttrReader};
use crate::ir::infer::{Fact, Infer};
use crate::ir::op::Operator;
use crate::ir::shape::{Dim, Shape};
use crate::ir::ties::Ties;

/// A small map of every region that input 1 lists, from the image that input 2 says.
#[derive(Debug, Clone, PartialEq)]
pub struct RoiAlign {
    /// Since opset 16; "output_half_pixel" is all there was before.
    pub coordinates: String,
    /// "avg" or "max".
    pub mode: String,
    pub height: i64,
    pub width: i64,
    pub sampling_ratio: i64,
    pub spatial_scale: f32,
}

/// The input at the places that input 1 lists, one for each pixel of the result.
#[derive(Debug, Clone, PartialEq)]
pub struct GridSample {
    pub align_corners: bool,
    /// "linear", "nearest" or "cubic"; before opset 20 "bilinear", "nearest" or "bicubic".
    pub mode: String,
    /// "zeros", "border" or "reflection".
    pub padding: String,
}

/// The name of the mode that is the default.
fn linear(opset: i64) -> &'static str {
    if opset < 20 { "bilinear" } else { "linear" }
}

fn unless(name: &str, value: &str, default: &str) -> Option<Attr> {
    (value != default).then(|| Attr::str(name, value))
}

impl Operator for RoiAlign {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        if opset < 10 {
            return None;
        }
        let coordinates = if opset < 16 {
            "output_half_pixel".into()
        } else {
            attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel".into())
        };
        Some(RoiAlign {
            coordinates,
            mode: attrs.str("mode").unwrap_or("avg".into()),
            height: attrs.int_or("output_height", 1),
            width: attrs.int_or("output_width", 1),
            sampling_ratio: attrs.int_or("sampling_ratio", 0),
            spatial_scale: attrs.float_or("spatial_scale", 1.0),
        })
    }

    fn op_type(&self) -> &'static str {
        "RoiAlign"
    }

    fn attrs(&self, opset: i64) -> Vec<Attr> {
        let mut out = Vec::new();
        if opset >= 16 {
            out.extend(unless("coordinate_transformation_mode", &self.coordinates, "half_pixel"));
        }
        out.extend(unless("mode", &self.mode, "avg"));
        let sizes = [("output_height", self.height, 1), ("output_width", self.width, 1)];
        let numbers = sizes.into_iter().chain([("sampling_ratio", self.sampling_ratio, 0)]);
        out.extend(numbers.filter(|n| n.1 != n.2).map(|n| Attr::int(n.0, n.1)));
        if self.spatial_scale != 1.0 {
            out.push(Attr::float("spatial_scale", self.spatial_scale));
        }
        out
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let dim = |slot: usize, axis: usize, rank: usize| match cx.shape(slot) {
            Some(s) if s.rank() != rank => Err(format!("input {slot} has the shape {s}, not {rank} axes")),
            shape => Ok(shape.map_or(Dim::Unknown, |s| s.0[axis].clone())),
        };
        let size = |n: i64| u64::try_from(n).map(Dim::Known).map_err(|_| format!("an output size of {n}"));
        let shape = vec![dim(1, 0, 2)?, dim(0, 1, 4)?, size(self.height)?, size(self.width)?];
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(shape)))])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        t.pass((0, 1), (0, 1));
        true
    }
}

impl Operator for GridSample {
    fn parse(_: &str, opset: i64, attrs: &mut AttrReader<'_>) -> Option<Self> {
        (opset >= 16).then(|| GridSample {
            align_corners: attrs.flag("align_corners"),
            mode: attrs.str("mode").unwrap_or(linear(opset).into()),
            padding: attrs.str("padding_mode").unwrap_or("zeros".into()),
        })
    }

    fn op_type(&self) -> &'static str {
        "GridSample"
    }

    fn attrs(&self, opset: i64) -> Vec<Attr> {
        let corners = self.align_corners.then(|| Attr::int("align_corners", 1));
        let words = [unless("mode", &self.mode, linear(opset)), unless("padding_mode", &self.padding, "zeros")];
        corners.into_iter().chain(words.into_iter().flatten()).collect()
    }

    fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Fact>, String> {
        let (Some(x), Some(grid)) = (cx.shape(0), cx.shape(1)) else {
            return Ok(vec![Fact::tensor(cx.dtype(0), None)]);
        };
        if x.rank() != grid.rank() || x.rank() < 3 {
            return Err(format!("the input {x} and the grid {grid} do not go together"));
        }
        let dims = x.0[..2].iter().chain(&grid.0[1..grid.rank() - 1]).cloned().collect();
        Ok(vec![Fact::tensor(cx.dtype(0), Some(Shape(dims)))])
    }

    fn ties(&self, t: &mut dyn Ties) -> bool {
        t.pass((0, 1), (0, 1));
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::ir::op::testing::ty;

    #[test]
    fn maps_of_regions_and_grids() {
        let roi = |opset, attrs: &str| {
            let inputs = "input %x : f32[N,8,H,W] input %r : f32[R,4] input %b : i64[R]";
            ty(opset, &format!("{inputs} %y : ? = RoiAlign{attrs}(%x, %r, %b)"))
        };
        assert_eq!(roi(16, "<output_height=3, output_width=5>"), "f32[R,8,3,5]");
        assert_eq!(roi(10, ""), "f32[R,8,1,1]");
        assert_eq!(roi(9, ""), "opaque");
        assert_eq!(roi(10, "<coordinate_transformation_mode=\"half_pixel\">"), "opaque");
        let grid = |opset, g: &str| {
            ty(opset, &format!("input %x : f32[N,8,H,W] input %g : f32[{g}] %y : ? = GridSample(%x, %g)"))
        };
        assert_eq!(grid(16, "N,5,6,2"), "f32[N,8,5,6]");
        assert_eq!(grid(20, "N,h,w,2"), "f32[N,8,h,w]");
        assert_eq!(grid(15, "N,5,6,2"), "opaque");
    }
}
