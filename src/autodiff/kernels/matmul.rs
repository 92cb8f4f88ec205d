//! Matrix products. (ONNX Operators: Gemm, MatMul.)

use super::pointwise::{Function, Map, add};
use crate::autodiff::broadcast::BroadcastRuns;
use crate::autodiff::kernel::{Backward, Keeps, Kernel, Mode};
use crate::autodiff::program::Lowering;
use crate::autodiff::real::{Grad, Real, View, multiply, multiply_wide};
use crate::ir::op::gemm::Gemm;
use rayon::prelude::*;

pub fn gemm<T: Real>(node: &mut Lowering<'_, '_, T>, op: &Gemm) -> Result<(), String> {
    let (a, b, y) = (node.dims(0)?, node.dims(1)?, node.out(0)?);
    let (&[m, n], Some(&k)) = (&y[..], a.get(!op.trans_a as usize)) else {
        return Err("its factors are no matrices".into());
    };
    if a.len() != 2 || b.len() != 2 || b != if op.trans_b { [n, k] } else { [k, n] } {
        return Err("its factors do not fit".into());
    }
    let factors = [node.read(0)?, node.read(1)?];
    let product = Product { m, k, n, transposed: [op.trans_a, op.trans_b], batches: vec![[0, 0]] };
    let mut slot = node.push(product, &factors, m * n);
    if op.alpha != 1.0 {
        slot = node.push(Map(Function::scale(op.alpha.into())), &[slot], m * n);
    }
    if node.has(2) {
        let (mut c, shape) = (node.read(2)?, node.dims(2)?);
        if op.beta != 1.0 {
            c = node.push(Map(Function::scale(op.beta.into())), &[c], shape.iter().product());
        }
        slot = add(node, [(slot, &y), (c, &shape)], &y)?;
    }
    node.bind(0, slot);
    Ok(())
}

pub fn matmul<T: Real>(node: &mut Lowering<'_, '_, T>) -> Result<(), String> {
    let (mut a, mut b) = (node.dims(0)?, node.dims(1)?);
    if a.is_empty() || b.is_empty() {
        return Err("a factor is a scalar".into());
    }
    if a.len() == 1 {
        a.insert(0, 1);
    }
    if b.len() == 1 {
        b.push(1);
    }
    let ([batch_a @ .., m, k], [batch_b @ .., l, n]) = (&a[..], &b[..]) else {
        return Err("a factor is a scalar".into());
    };
    let (mut m, k, n) = (*m, *k, *n);
    let len: usize = node.out(0)?.iter().product();
    let both = [batch_a, batch_b];
    let shape: Vec<usize> = (0..batch_a.len().max(batch_b.len()))
        .rev()
        .map(|i| both.iter().filter_map(|b| b.len().checked_sub(i + 1).map(|at| b[at])).find(|&d| d != 1).unwrap_or(1))
        .collect();
    let runs = BroadcastRuns::new(&shape, both).filter(|_| k == *l).ok_or("its factors do not fit")?;
    let mut batches = Vec::new();
    runs.each(|_, [a, b]| {
        let [step_a, step_b] = runs.steps;
        batches.extend((0..runs.run).map(|i| [(a + i * step_a) * m * k, (b + i * step_b) * k * n]));
    });
    if batches.len() * m * n != len {
        return Err("its factors do not fit".into());
    }
    if b.len() == 2 {
        // All rows of the stack times one matrix.
        m *= batches.len();
        batches = vec![[0, 0]];
    }
    let inputs = [node.read(0)?, node.read(1)?];
    node.emit(Product { m, k, n, transposed: [false; 2], batches }, &inputs)
}

/// Y[m, n] = A B for every pair of matrices of two stacks, each as it lies or transposed.
struct Product {
    m: usize,
    k: usize,
    n: usize,
    transposed: [bool; 2],
    /// Where the factors of each product lie.
    batches: Vec<[usize; 2]>,
}

impl Product {
    fn a<'a, T: Real>(&self, x: &[&'a [T]], batch: usize) -> View<'a, T> {
        let at = self.batches[batch][0];
        View::maybe_t(&x[0][at..at + self.m * self.k], self.m, self.k, self.transposed[0])
    }

    fn b<'a, T: Real>(&self, x: &[&'a [T]], batch: usize) -> View<'a, T> {
        let at = self.batches[batch][1];
        View::maybe_t(&x[1][at..at + self.k * self.n], self.k, self.n, self.transposed[1])
    }

    /// Adds to each factor of slot `which` the products of the batches that read it.
    fn collect<'a, T: Real>(
        &self,
        grad: Grad<'_, T>,
        which: usize,
        len: usize,
        factors: impl Fn(usize) -> (View<'a, T>, View<'a, T>) + Sync,
    ) {
        let add = !grad.fresh;
        if let [[..]] = self.batches[..] {
            let (a, b) = factors(0);
            return multiply_wide(grad.to, a, b, add);
        }
        let in_step = self.batches.iter().enumerate().all(|(i, batch)| batch[which] == i * len);
        if in_step {
            grad.to.par_chunks_mut(len).enumerate().for_each(|(i, to)| {
                let (a, b) = factors(i);
                multiply(to, a, b, add);
            });
        } else {
            let to = grad.zeroed();
            for (i, batch) in self.batches.iter().enumerate() {
                let (a, b) = factors(i);
                multiply(&mut to[batch[which]..][..len], a, b, true);
            }
        }
    }
}

impl<T: Real> Kernel<T> for Product {
    fn keeps(&self) -> Keeps {
        Keeps { inputs: 0b11, output: false }
    }

    fn forward(&mut self, x: &[&[T]], y: &mut [T], _: &mut [T], _: Mode) {
        if self.batches.len() == 1 {
            return multiply_wide(y, self.a(x, 0), self.b(x, 0), false);
        }
        let this = &*self;
        y.par_chunks_mut(self.m * self.n).enumerate().for_each(|(i, y)| multiply(y, this.a(x, i), this.b(x, i), false));
    }

    fn backward(&mut self, back: Backward<'_, T>) {
        let Backward { x, dy, dx, .. } = back;
        let (&mut Product { m, k, n, .. }, mut dx) = (&mut *self, dx.into_iter());
        let dy = |i: usize| View::new(&dy[i * m * n..][..m * n], m, n);
        // A matrix that lies transposed gets the transpose of its gradient.
        if let Some(da) = dx.next().flatten() {
            match self.transposed[0] {
                false => self.collect(da, 0, m * k, |i| (dy(i), self.b(x, i).t())),
                true => self.collect(da, 0, m * k, |i| (self.b(x, i), dy(i).t())),
            }
        }
        if let Some(db) = dx.next().flatten() {
            match self.transposed[1] {
                false => self.collect(db, 1, k * n, |i| (self.a(x, i).t(), dy(i))),
                true => self.collect(db, 1, k * n, |i| (dy(i).t(), self.a(x, i))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::autodiff::testing::check;

    fn product(op: &str, a: &str, b: &str) {
        check(13, &format!("const %a : f64[{a}] = seed(1) const %b : f64[{b}] = seed(2) %y : ? = {op}(%a, %b)"));
    }

    #[test]
    fn stacks() {
        product("MatMul", "3,4", "4,5");
        product("MatMul", "2,3,4", "4,5");
        product("MatMul", "2,3,4", "2,4,2");
        product("MatMul", "2,1,3,4", "3,4,2");
        product("MatMul", "3,4", "2,4,2");
        product("MatMul", "4", "2,4,3");
        product("MatMul", "2,3,4", "4");
        product("MatMul", "4", "4");
    }

    #[test]
    fn general_product() {
        product("Gemm", "3,4", "4,5");
        product("Gemm<alpha=0.5, transA=1>", "4,3", "4,5");
        product("Gemm<transB=1>", "3,4", "5,4");
        product("Gemm<alpha=2.0, transA=1, transB=1>", "4,3", "5,4");
        let c = |op: &str, c: &str| {
            let factors = "const %a : f64[3,4] = seed(1) const %b : f64[4,5] = seed(2)";
            check(13, &format!("{factors} const %c : f64[{c}] = seed(3) %y : ? = {op}(%a, %b, %c)"));
        };
        c("Gemm", "5");
        c("Gemm<beta=0.5>", "3,1");
        c("Gemm<alpha=0.25, beta=2.0>", "");
        c("Gemm", "3,5");
    }

    #[test]
    fn one_factor_twice() {
        check(13, "const %a : f64[3,3] = seed(1) %y : ? = MatMul(%a, %a)");
    }
}
