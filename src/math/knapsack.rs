//! What to do in each of several places so that all of it together costs no more than a budget and loses little: the
//! multiple-choice knapsack.

/// One of the choices at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    pub cost: u64,
    pub loss: f64,
}

/// For every place the index of one of its items, so that the costs sum to at most `budget` where the cheapest items do (else
/// those are the answer), and the losses to little: from the least possible it differs by at most what the best single step
/// between two neighbouring items that no longer fits would gain. A larger budget never loses more but for such a step. Items
/// whose loss is not finite are not taken unless there is no other. Places without items get 0.
///
/// (Every multiplier λ of a Lagrangian sweep picks, in each place, the corner of the lower convex hull where cost + λ loss is
/// least; going through all λ is taking the hulls' edges by falling slope. What is left of the budget then goes to whatever
/// gains most. Sinha & Zoltners 1979, The Multiple-Choice Knapsack Problem.)
pub fn choose(places: &[Vec<Item>], budget: u64) -> Vec<usize> {
    let hulls: Vec<Vec<usize>> = places.iter().map(|items| hull(items)).collect();
    let mut chosen: Vec<usize> = hulls.iter().map(|h| h.first().copied().unwrap_or(0)).collect();
    let cost = |place: usize, item: usize| places[place].get(item).map_or(0, |w| w.cost);
    let mut spent = chosen.iter().enumerate().fold(0u64, |sum, (place, &item)| sum.saturating_add(cost(place, item)));
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (place, hull) in hulls.iter().enumerate() {
        for pair in hull.windows(2) {
            steps.push((slope(places[place][pair[0]], places[place][pair[1]]), place, pair[1]));
        }
    }
    // Stable: the edges of one hull, whose slopes fall, stay in order.
    steps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut blocked = vec![false; places.len()];
    for (_, place, item) in steps {
        let after = (spent - cost(place, chosen[place])).saturating_add(cost(place, item));
        blocked[place] |= after > budget;
        if !blocked[place] {
            (chosen[place], spent) = (item, after);
        }
    }
    // What is left over: the item that gains most, over and over.
    while let Some((place, item)) = best_fill(places, &chosen, budget.saturating_sub(spent)) {
        spent = (spent - cost(place, chosen[place])) + cost(place, item);
        chosen[place] = item;
    }
    chosen
}

fn best_fill(places: &[Vec<Item>], chosen: &[usize], room: u64) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (place, items) in places.iter().enumerate() {
        let Some(&now) = items.get(chosen[place]) else { continue };
        for (i, item) in items.iter().enumerate().filter(|(_, w)| w.cost.saturating_sub(now.cost) <= room) {
            let gain = now.loss - item.loss;
            if gain > 0.0 && best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, place, i));
            }
        }
    }
    best.map(|(_, place, item)| (place, item))
}

/// Loss that a step to a dearer item saves, for its cost.
fn slope(from: Item, to: Item) -> f64 {
    (from.loss - to.loss) / to.cost.saturating_sub(from.cost).max(1) as f64
}

/// The corners of the lower convex hull over cost, from the cheapest item on, losses falling.
fn hull(items: &[Item]) -> Vec<usize> {
    let finite = items.iter().any(|w| w.loss.is_finite());
    let mut order: Vec<usize> = (0..items.len()).filter(|&i| !finite || items[i].loss.is_finite()).collect();
    order.sort_by(|&a, &b| {
        (items[a].cost.cmp(&items[b].cost)).then(items[a].loss.total_cmp(&items[b].loss)).then(a.cmp(&b))
    });
    let mut corners: Vec<usize> = Vec::new();
    for i in order {
        if let Some(&last) = corners.last()
            && (items[i].loss >= items[last].loss || items[i].cost == items[last].cost)
        {
            continue;
        }
        while let [.., before, last] = corners[..]
            && slope(items[before], items[last]) <= slope(items[last], items[i])
        {
            corners.pop();
        }
        corners.push(i);
    }
    corners
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (self.0 >> 33) % n
        }

        fn places(&mut self) -> Vec<Vec<Item>> {
            let count = 1 + self.below(4);
            let item = |r: &mut Random| Item { cost: r.below(40), loss: r.below(1000) as f64 / 8.0 };
            (0..count).map(|_| (0..1 + self.below(6)).map(|_| item(self)).collect()).collect()
        }
    }

    fn total(places: &[Vec<Item>], chosen: &[usize]) -> Item {
        let items = places.iter().zip(chosen).map(|(items, &i)| items[i]);
        items.fold(Item { cost: 0, loss: 0.0 }, |a, b| Item { cost: a.cost + b.cost, loss: a.loss + b.loss })
    }

    /// The least loss of all combinations within the budget.
    fn brute(places: &[Vec<Item>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = places.split_first() else { return Some(0.0) };
        let fits = first.iter().filter(|w| w.cost <= budget);
        let losses = fits.filter_map(|w| Some(w.loss + brute(rest, budget - w.cost)?));
        losses.min_by(f64::total_cmp)
    }

    /// The largest gain of one edge of a hull.
    fn step(places: &[Vec<Item>]) -> f64 {
        let edges = places.iter().flat_map(|items| {
            let hull = hull(items);
            hull.windows(2).map(|p| items[p[0]].loss - items[p[1]].loss).collect::<Vec<_>>()
        });
        edges.fold(0.0, f64::max)
    }

    #[test]
    fn near_the_best_of_all_combinations() {
        let mut random = Random(1);
        let (mut exact, mut all) = (0, 0);
        for _ in 0..2000 {
            let places = random.places();
            let budget = random.below(120);
            let chosen = choose(&places, budget);
            assert_eq!(chosen, choose(&places, budget));
            let found = total(&places, &chosen);
            match brute(&places, budget) {
                Some(least) => {
                    assert!(found.cost <= budget, "{places:?}, {budget}: {chosen:?}");
                    assert!(
                        found.loss >= least && found.loss <= least + step(&places),
                        "{places:?}, {budget}: {found:?}"
                    );
                    exact += usize::from(found.loss == least);
                    all += 1;
                }
                // Nothing fits: the cheapest.
                None => {
                    let least = places.iter().map(|w| w.iter().map(|w| w.cost).min().unwrap());
                    assert_eq!(found.cost, least.sum::<u64>());
                }
            }
        }
        assert!(exact * 10 > all * 9, "{exact} of {all}");
    }

    #[test]
    fn more_room_loses_no_more_on_hulls() {
        // Losses that fall ever more slowly, as those of ranks do, at equal steps of cost: the sweep is exact.
        let place = |scale: f64| (0..9).map(|r| Item { cost: 5 * r, loss: scale * 0.5f64.powi(r as i32) }).collect();
        let places: Vec<Vec<Item>> = [1.0, 3.0, 0.2].map(place).to_vec();
        let mut last = f64::INFINITY;
        for budget in 0..130 {
            let loss = total(&places, &choose(&places, budget)).loss;
            assert!(loss <= last && Some(loss) == brute(&places, budget), "{budget}: {loss} after {last}");
            last = loss;
        }
    }

    #[test]
    fn odd_places() {
        let nan = Item { cost: 1, loss: f64::NAN };
        assert_eq!(choose(&[], 3), Vec::<usize>::new());
        assert_eq!(choose(&[vec![], vec![nan]], 3), [0, 0]);
        assert_eq!(choose(&[vec![nan, Item { cost: 2, loss: 1.0 }]], 3), [1]);
        let huge = Item { cost: u64::MAX, loss: 0.0 };
        assert_eq!(
            choose(&[vec![huge, Item { cost: 2, loss: 1.0 }], vec![huge, Item { cost: 3, loss: 1.0 }]], 9),
            [1, 1]
        );
        assert_eq!(choose(&[vec![huge], vec![huge]], 9), [0, 0]);
    }
}
