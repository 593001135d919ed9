//! The axes of a circuit at a site: as given, or chosen from the site's shape and a budget of parameters.
//!
//! The choice, `dims = "auto"`: among circuits with a gate on every pair of 2 to 5 axes, no axis more than four times another, those within the budget; of these
//! the ones with the fewest axes, because a gate on larger axes mixes more at once; of these the one with the most parameters. Where none fits, the one
//! with the fewest parameters. Where one side of the site divides the other, one axis changes its size by the quotient; otherwise the smaller side pads. Where
//! the larger side itself has no circuit within the budget, it is padded by up to an eighth, as little as possible. For 4096 x 4096 and the default budget
//! this is the paper's 16-8-8-4.
//!
//! The rule is part of the adapter folder's format: the folder says `auto`, and reading chooses again.

use std::borrow::Cow;

use quanta_circuit::Plan;

use super::Site;

/// How a site's circuit is found.
#[derive(Clone, Debug, PartialEq)]
pub enum Axes {
    /// One plan for all sites.
    Plan(Plan),
    /// Chosen for each site.
    Auto {
        /// Most parameters at a site; none: as many as a low-rank update of rank 8.
        parameters: Option<usize>,
    },
}

/// Largest prime factor of a padded side.
const LARGEST_FACTOR: usize = 16;
/// Most padded sides that are tried.
const MOST_SIDES: usize = 24;
/// Most axes.
const MOST_AXES: usize = 5;
/// The largest axis over the smallest.
const SPREAD: usize = 4;

impl Axes {
    /// The plan at a site.
    pub(super) fn at(&self, site: &Site) -> Cow<'_, Plan> {
        match self {
            Self::Plan(plan) => Cow::Borrowed(plan),
            Self::Auto { parameters } => {
                let budget = parameters.unwrap_or(8 * (site.d_in + site.d_out));
                Cow::Owned(choose(site.d_in, site.d_out, budget))
            }
        }
    }
}

fn choose(d_in: usize, d_out: usize, budget: usize) -> Plan {
    let (large, small) = (d_in.max(d_out), d_in.min(d_out).max(1));
    let divides = large.is_multiple_of(small) && large > small;
    let axes = |plan: &Plan| plan.in_dims().len();
    let mut cheapest: Option<Plan> = None;
    for side in [large].into_iter().chain(padded(large)) {
        // a padded side has no axis to divide
        let quotient = if divides && side == large { large / small } else { 1 };
        let plans: Vec<Plan> = splits(side).iter().flat_map(|dims| between(dims, quotient, d_in >= d_out)).collect();
        let fits = plans.iter().filter(|plan| plan.parameters() <= budget);
        if let Some(best) = fits.min_by_key(|plan| (axes(plan), std::cmp::Reverse(plan.parameters()))) {
            return best.clone();
        }
        cheapest = plans.into_iter().chain(cheapest).min_by_key(|plan| (plan.parameters(), axes(plan)));
    }
    cheapest.unwrap_or_else(|| Plan::all_pairs(&[1, large]).expect("two axes make a circuit"))
}

/// The next larger sides, up to an eighth more, whose prime factors are small.
fn padded(side: usize) -> impl Iterator<Item = usize> {
    let smooth = |side: &usize| {
        let mut rest = *side;
        (2..=LARGEST_FACTOR).for_each(|factor| {
            while rest.is_multiple_of(factor) {
                rest /= factor;
            }
        });
        rest == 1
    };
    (side + 1..=side + side.div_ceil(8)).filter(smooth).take(MOST_SIDES)
}

/// All ways to write `side` as 2 to 5 factors of similar size, descending; without such, as two factors.
fn splits(side: usize) -> Vec<Vec<usize>> {
    fn extend(rest: usize, most: usize, dims: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        if rest == 1 && dims.len() >= 2 {
            found.push(dims.clone());
        }
        if dims.len() == MOST_AXES {
            return;
        }
        let least = dims.first().map_or(2, |first| first.div_ceil(SPREAD).max(2));
        for factor in (least..=most.min(rest)).rev().filter(|&factor| rest.is_multiple_of(factor)) {
            dims.push(factor);
            extend(rest / factor, factor, dims, found);
            dims.pop();
        }
    }
    let mut found = Vec::new();
    extend(side, side, &mut Vec::new(), &mut found);
    if found.is_empty() {
        let small = (1..=side.isqrt()).rev().find(|&small| side.is_multiple_of(small)).unwrap_or(1);
        found.push(vec![side / small, small]);
    }
    found
}

/// Circuits of these axes of which one is divided by `quotient` on the smaller side: the first that can be.
fn between(dims: &[usize], quotient: usize, shrinks: bool) -> Option<Plan> {
    if quotient == 1 {
        return Plan::all_pairs(dims).ok();
    }
    let axis = dims.iter().position(|axis| axis.is_multiple_of(quotient))?;
    let mut smaller = dims.to_vec();
    smaller[axis] /= quotient;
    if shrinks { Plan::all_pairs_between(dims, &smaller).ok() } else { Plan::all_pairs_between(&smaller, dims).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(d_out: usize, d_in: usize, parameters: Option<usize>) -> Plan {
        Axes::Auto { parameters }.at(&Site::linear("q_proj", 0, d_out, d_in)).into_owned()
    }

    #[test]
    fn the_papers_axes_are_chosen_for_its_models() {
        assert_eq!(chosen(4096, 4096, None).in_dims(), [16, 8, 8, 4]);
        assert_eq!(chosen(4096, 4096, Some(200_000)).in_dims(), [16, 16, 16]);
        assert_eq!(chosen(5120, 5120, None).in_dims().iter().product::<usize>(), 5120);
    }

    #[test]
    fn a_divided_side_has_a_rectangular_circuit_and_others_are_padded() {
        let plan = chosen(1024, 4096, None);
        assert_eq!((plan.in_len(), plan.out_len()), (4096, 1024), "{plan}");
        let plan = chosen(4096, 1024, None);
        assert_eq!((plan.in_len(), plan.out_len()), (1024, 4096), "{plan}");
        // 11008 = 2^8 * 43, 172 = 4 * 43
        for (side, other) in [(11_008, 4096), (172, 64)] {
            let plan = chosen(side, other, None);
            assert!((side..=side + side / 8).contains(&plan.in_len()) && plan.is_square(), "{plan}");
            assert!(plan.parameters() <= 8 * (side + other), "{plan}: {}", plan.parameters());
        }
        for side in [2, 3, 17, 23, 37, 64, 97, 576, 768] {
            let plan = chosen(side, side, None);
            assert!(plan.in_len() >= side && plan.in_len() <= 2 * side, "{side}: {plan}");
        }
    }

    #[test]
    fn the_budget_is_kept_where_it_can_be() {
        for budget in [20_000, 50_000, 100_000, 1_000_000] {
            let plan = chosen(2048, 2048, Some(budget));
            assert!(plan.parameters() <= budget, "{plan} has {}", plan.parameters());
        }
        assert!(chosen(2048, 2048, Some(1)).parameters() < 20_000);
    }
}
