//! A second moment that several systems are solved with: its Cholesky factor is computed once.

use super::solve::{Whitening, factor, solve_with};
use faer::Mat;
use ndarray::Array2;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// A symmetric second moment G (n × n), with the factor of G + λI that was asked for last.
#[derive(Debug, Default)]
pub struct Factored {
    matrix: Array2<f64>,
    last: Mutex<Option<(f64, Arc<Mat<f64>>)>>,
}

impl Factored {
    /// As [`super::ridge`].
    pub fn ridge(&self, b: &Array2<f64>, toward: Option<&Array2<f64>>, lambda_rel: f64) -> Option<Array2<f64>> {
        solve_with(&self.matrix, |lambda| self.factor(lambda), b, toward, lambda_rel)
    }

    /// As [`Whitening::new`].
    pub fn whitening(&self, lambda_rel: f64) -> Option<Whitening> {
        match self.factor(lambda_rel) {
            Some(lower) => Some(Whitening::lower(lower)),
            None => Whitening::new(self.matrix.view(), lambda_rel),
        }
    }

    /// Lets go of the factor, which takes as much memory as the matrix.
    pub fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn factor(&self, lambda_rel: f64) -> Option<Arc<Mat<f64>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, lower)) = last.as_ref().filter(|(lambda, _)| *lambda == lambda_rel) {
            return Some(lower.clone());
        }
        *last = None;
        let lower = Arc::new(factor(self.matrix.view(), lambda_rel)?);
        *last = Some((lambda_rel, lower.clone()));
        Some(lower)
    }
}

impl Clone for Factored {
    fn clone(&self) -> Self {
        self.matrix.clone().into()
    }
}

impl From<Array2<f64>> for Factored {
    fn from(matrix: Array2<f64>) -> Self {
        Factored { matrix, last: Mutex::default() }
    }
}

impl From<Factored> for Array2<f64> {
    fn from(moment: Factored) -> Self {
        moment.matrix
    }
}

impl Deref for Factored {
    type Target = Array2<f64>;

    fn deref(&self) -> &Array2<f64> {
        &self.matrix
    }
}

impl PartialEq for Factored {
    fn eq(&self, other: &Self) -> bool {
        self.matrix == other.matrix
    }
}

#[cfg(test)]
mod tests {
    use super::super::solve::ridge;
    use super::super::testing::noise;
    use super::*;

    /// Whatever was asked for before.
    #[test]
    fn the_factor_is_the_one_of_its_ridge() {
        let x = noise(6, 40, 1);
        let (g, b, prior) = (x.dot(&x.t()), noise(3, 6, 2), noise(3, 6, 3));
        let moment = Factored::from(g.clone());
        for lambda in [1e-4, 1e-4, 1e-1, 1e-4] {
            assert_eq!(moment.ridge(&b, Some(&prior), lambda), ridge(&g, &b, Some(&prior), lambda));
            let (root, plain) = (moment.whitening(lambda), Whitening::new(g.view(), lambda));
            assert_eq!(root.and_then(|r| r.whiten(b.view())), plain.and_then(|r| r.whiten(b.view())));
        }
        moment.forget();
        assert_eq!(moment.ridge(&b, None, 0.0), ridge(&g, &b, None, 0.0));
    }
}
