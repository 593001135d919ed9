//! Attention against its definition, and its gradients against differences.

use super::*;
use crate::ops::Segments;
use crate::ops::difference::{check, dot, numbers};

const DIM: usize = 4;

/// Two trees: a root of 70 (more than one block) with two children and a grandchild, and a single root.
fn forest() -> Segments {
    Segments::new(&[(70, None), (2, Some(0)), (3, Some(1)), (1, Some(0)), (5, None)]).unwrap()
}

/// The same, and the same behind virtual tokens.
fn forests() -> [Segments; 2] {
    [forest(), forest().behind(3)]
}

fn all(segments: &Segments) -> Asking<'_> {
    Asking { segments, tokens: None }
}

/// Some tokens: gaps, a run across blocks, a segment without any.
fn some() -> Vec<usize> {
    (0..76).filter(|token| token % 3 == 1 || (20..70).contains(token)).collect()
}

fn matrix(workspace: &Workspace<f64>, values: &[f64]) -> Matrix<f64> {
    let mut m = workspace.matrix(values.len() / DIM, DIM);
    m.copy_from(values);
    m
}

/// Where the query of one of four heads stands, two of them sharing a key/value head.
fn row_of(head: usize, tokens: usize, token: usize) -> usize {
    (head / 2 * tokens + token) * 2 + head % 2
}

/// The plain rule; windows shorter and longer than a block, and shorter than a segment; a soft cap that bends; sight of the whole path.
fn rules() -> [Rule; 6] {
    let plain = Rule::causal(DIM);
    [
        plain,
        Rule { window: Some(1), ..plain },
        Rule { window: Some(3), softcap: Some(1.5), ..plain },
        Rule { window: Some(67), scale: 0.3, ..plain },
        Rule { causal: false, ..plain },
        Rule { causal: false, window: Some(66), softcap: Some(2.0), ..plain },
    ]
}

/// Whether a query sees a key, both as positions on one path.
fn sees(rule: Rule, query: usize, key: usize) -> bool {
    (key <= query || !rule.causal) && rule.window.is_none_or(|window| query.abs_diff(key) < window)
}

#[test]
fn forward_is_the_definition_on_every_path() {
    let workspace = Workspace::new(2).unwrap();
    for (segments, rule) in forests().iter().flat_map(|segments| rules().map(move |rule| (segments, rule))) {
        let (tokens, keys) = (segments.tokens(), segments.keys());
        let (q, k, v) = (numbers(4 * tokens * DIM, "q"), numbers(2 * keys * DIM, "k"), numbers(2 * keys * DIM, "v"));
        let layout = Layout { groups: Groups::of_queries(4, 2), rule, asking: all(segments), dropout: None };
        let inputs = [&q, &k, &v].map(|m| matrix(&workspace, m));
        let (o, _) = forward(&inputs[0], &inputs[1], &inputs[2], layout, &workspace);
        for (index, segment) in segments.list().iter().enumerate() {
            let mut path: Vec<usize> = segments.ancestors(index).into_iter().flatten().collect();
            path.extend(segment.range());
            for token in segment.range() {
                let position = segments.positions()[token];
                let seen: Vec<usize> =
                    (0..path.len()).filter(|&key| sees(rule, position, key)).map(|key| path[key]).collect();
                for head in 0..4 {
                    let row = |m: &[f64], head: usize, t: usize| m[(head * keys + t) * DIM..][..DIM].to_vec();
                    let place = row_of(head, tokens, token);
                    let query = &q[place * DIM..][..DIM];
                    let score = |&t: &usize| {
                        let s = rule.scale * dot(query, &row(&k, head / 2, t));
                        rule.softcap.map_or(s, |cap| cap * (s / cap).tanh())
                    };
                    let scores: Vec<f64> = seen.iter().map(score).collect();
                    let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                    for i in 0..DIM {
                        let expected: f64 =
                            seen.iter().zip(&scores).map(|(&t, s)| s.exp() / sum * row(&v, head / 2, t)[i]).sum();
                        assert!((o.row(place)[i] - expected).abs() < 1e-12, "{rule:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn backward_is_the_gradient_of_forward() {
    let workspace = Workspace::new(2).unwrap();
    let stream = |group, token| Stream::new(3, "dropout", &format!("{group}/{token}"));
    let dropped = Dropout { p: 0.3, stream: &stream };
    let forests = forests();
    let cases = forests.iter().flat_map(|segments| rules().map(move |rule| (segments, rule)));
    for (index, (segments, rule)) in cases.enumerate() {
        let (dropout, some) = ([None, Some(dropped)][index % 2], some());
        let asking = Asking { segments, tokens: (index % 3 == 1).then_some(&some) };
        let queries = asking.tokens.map_or(segments.tokens(), <[usize]>::len);
        let keys = segments.keys();
        let (q, k, v) = (numbers(4 * queries * DIM, "q"), numbers(2 * keys * DIM, "k"), numbers(2 * keys * DIM, "v"));
        let d_o = numbers(4 * queries * DIM, "do");
        let layout = Layout { groups: Groups::of_queries(4, 2), rule, asking, dropout };
        let run = |q: &[f64], k: &[f64], v: &[f64]| {
            forward(&matrix(&workspace, q), &matrix(&workspace, k), &matrix(&workspace, v), layout, &workspace)
        };
        let (o, saved) = run(&q, &k, &v);
        let inputs = [&q, &k, &v].map(|m| matrix(&workspace, m));
        let [q_ref, k_ref, v_ref] = &inputs;
        let grads = backward(&matrix(&workspace, &d_o), [q_ref, k_ref, v_ref], &o, &saved, layout, &workspace);
        check(&format!("dq {rule:?}"), &q, grads[0].data(), |q| dot(run(q, &k, &v).0.data(), &d_o));
        check(&format!("dk {rule:?}"), &k, grads[1].data(), |k| dot(run(&q, k, &v).0.data(), &d_o));
        check(&format!("dv {rule:?}"), &v, grads[2].data(), |v| dot(run(&q, &k, v).0.data(), &d_o));
    }
}

#[test]
fn some_queries_are_answered_as_among_all() {
    let (workspace, some) = (Workspace::new(2).unwrap(), some());
    for (segments, rule) in forests().iter().flat_map(|segments| rules().map(move |rule| (segments, rule))) {
        let (tokens, keys) = (segments.tokens(), segments.keys());
        let q = matrix(&workspace, &numbers(4 * tokens * DIM, "q"));
        let [k, v] = ["k", "v"].map(|name| matrix(&workspace, &numbers(2 * keys * DIM, name)));
        let run = |q: &Matrix<f64>, tokens: Option<&[usize]>| {
            let asking = Asking { segments, tokens };
            let layout = Layout { groups: Groups::of_queries(4, 2), rule, asking, dropout: None };
            forward(q, &k, &v, layout, &workspace).0
        };
        let whole = run(&q, None);
        for asked in [&some[..], &[tokens - 1], &[]] {
            let rows: Vec<usize> = (0..2)
                .flat_map(|group| asked.iter().map(move |&token| (group, token)))
                .flat_map(|(group, token)| [2 * group, 2 * group + 1].map(|head| row_of(head, tokens, token)))
                .collect();
            let picked: Vec<f64> = rows.iter().flat_map(|&row| q.row(row)).copied().collect();
            let picked = matrix(&workspace, &picked);
            let part = run(&picked, Some(asked));
            assert_eq!(part.rows(), rows.len());
            for (index, row) in rows.into_iter().enumerate() {
                let apart = part.row(index).iter().zip(whole.row(row)).map(|(a, b)| (a - b).abs());
                assert!(apart.fold(0.0, f64::max) < 1e-14, "{rule:?}, row {row}");
            }
        }
    }
}

#[test]
fn keys_outside_the_window_weigh_nothing_at_all() {
    let (workspace, segments) = (Workspace::new(1).unwrap(), forest());
    let tokens = segments.tokens();
    let rule = Rule { window: Some(4), ..Rule::causal(DIM) };
    let layout = Layout { groups: Groups::of_queries(1, 1), rule, asking: all(&segments), dropout: None };
    let (q, k, mut v) = (numbers(tokens * DIM, "q"), numbers(tokens * DIM, "k"), numbers(tokens * DIM, "v"));
    let run = |v: &[f64]| {
        forward(&matrix(&workspace, &q), &matrix(&workspace, &k), &matrix(&workspace, v), layout, &workspace).0
    };
    let before = run(&v);
    // the root's token 66 is 4 positions before the first token of its children
    v[66 * DIM..67 * DIM].fill(1e30);
    let after = run(&v);
    for token in 70..tokens {
        assert_eq!(before.row(token), after.row(token), "token {token}");
    }
    assert_ne!(before.row(69), after.row(69));
}

/// Rows of a head, where heads come in groups of `size` and stand group-major, in the order that they have head-major.
fn head_major(data: &[f64], tokens: usize, size: usize) -> Vec<f64> {
    let heads = data.len() / (tokens * DIM);
    let row = |head: usize, token: usize| (head / size * tokens + token) * size + head % size;
    let rows = (0..heads).flat_map(|head| (0..tokens).map(move |token| row(head, token)));
    rows.flat_map(|row| &data[row * DIM..][..DIM]).copied().collect()
}

/// As many copies of each head's keys or values.
fn repeated(data: &[f64], keys: usize, copies: usize) -> Vec<f64> {
    data.chunks(keys * DIM).flat_map(|head| head.repeat(copies)).collect()
}

#[test]
fn a_group_is_heads_that_have_copies_of_its_keys_and_values() {
    let (workspace, some) = (Workspace::new(2).unwrap(), some());
    let forests = forests();
    let cases = [(1, 1), (3, 3), (3, 1), (14, 2), (17, 1)].into_iter().zip(forests.iter().zip(rules()).cycle());
    for (index, ((heads, kv_heads), (segments, rule))) in cases.enumerate() {
        let asking = Asking { segments, tokens: (index % 2 == 1).then_some(&some) };
        let (tokens, keys) = (asking.tokens.map_or(segments.tokens(), <[usize]>::len), segments.keys());
        let size = heads / kv_heads;
        let [q, d_o] = ["q", "do"].map(|name| numbers(heads * tokens * DIM, name));
        let [k, v] = ["k", "v"].map(|name| numbers(kv_heads * keys * DIM, name));
        let run = |groups, [q, k, v, d_o]: [&[f64]; 4]| {
            let layout = Layout { groups, rule, asking, dropout: None };
            let [q, k, v, d_o] = [q, k, v, d_o].map(|values| matrix(&workspace, values));
            let (o, saved) = forward(&q, &k, &v, layout, &workspace);
            let [dq, dk, dv] = backward(&d_o, [&q, &k, &v], &o, &saved, layout, &workspace);
            [o, dq, dk, dv].map(|m| m.data().to_vec())
        };
        let [o, dq, dk, dv] = run(Groups::of_queries(heads, kv_heads), [&q, &k, &v, &d_o]);
        let [many_k, many_v] = [&k, &v].map(|data| repeated(data, keys, size));
        let [many_q, many_d_o] = [&q, &d_o].map(|data| head_major(data, tokens, size));
        let many = run(Groups::of_queries(heads, heads), [&many_q, &many_k, &many_v, &many_d_o]);
        let sums = |copies: &[f64]| -> Vec<f64> {
            let each = copies.chunks(size * keys * DIM);
            each.flat_map(|group| (0..keys * DIM).map(|at| group.iter().skip(at).step_by(keys * DIM).sum())).collect()
        };
        let [many_o, many_dq, many_dk, many_dv] = many;
        let (many_dk, many_dv) = (sums(&many_dk), sums(&many_dv));
        for (name, got, expected) in [
            ("o", head_major(&o, tokens, size), many_o),
            ("dq", head_major(&dq, tokens, size), many_dq),
            ("dk", dk, many_dk),
            ("dv", dv, many_dv),
        ] {
            assert_eq!(got.len(), expected.len());
            let apart = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(apart < 1e-12, "{name} of {heads} heads, {kv_heads} of keys: {apart:e}");
        }
    }
}

#[test]
fn without_queries_keys_and_values_have_no_gradient() {
    let workspace = Workspace::new(2).unwrap();
    for segments in forests() {
        let asking = Asking { segments: &segments, tokens: Some(&[]) };
        let layout = Layout { groups: Groups::of_queries(4, 2), rule: Rule::causal(DIM), asking, dropout: None };
        let none = matrix(&workspace, &[]);
        let [k, v] = ["k", "v"].map(|name| matrix(&workspace, &numbers(2 * segments.keys() * DIM, name)));
        let (o, saved) = forward(&none, &k, &v, layout, &workspace);
        let [dq, dk, dv] = backward(&none, [&none, &k, &v], &o, &saved, layout, &workspace);
        assert_eq!((o.rows(), dq.rows()), (0, 0));
        assert!(dk.data().iter().chain(dv.data()).all(|&d| d == 0.0));
    }
}

#[test]
#[should_panic(expected = "of no head and place")]
fn more_queries_than_tokens_ask_are_refused() {
    let (workspace, segments) = (Workspace::new(1).unwrap(), forest());
    let layout =
        Layout { groups: Groups::of_queries(4, 2), rule: Rule::causal(DIM), asking: all(&segments), dropout: None };
    let q = matrix(&workspace, &numbers(4 * (segments.tokens() + 1) * DIM, "q"));
    let k = matrix(&workspace, &numbers(2 * segments.keys() * DIM, "k"));
    forward(&q, &k, &k, layout, &workspace);
}

#[test]
fn bits_do_not_depend_on_threads_where_probabilities_are_dropped() {
    let segments = forest().behind(3);
    let stream = |group, token| Stream::new(3, "dropout", &format!("{group}/{token}"));
    let dropout = Some(Dropout { p: 0.3, stream: &stream });
    let layout = Layout { groups: Groups::of_queries(6, 2), rule: Rule::causal(DIM), asking: all(&segments), dropout };
    let run = |threads| {
        let workspace = Workspace::new(threads).unwrap();
        let [q, d_o] = ["q", "do"].map(|name| matrix(&workspace, &numbers(6 * segments.tokens() * DIM, name)));
        let [k, v] = ["k", "v"].map(|name| matrix(&workspace, &numbers(2 * segments.keys() * DIM, name)));
        workspace.run(|| {
            let (o, saved) = forward(&q, &k, &v, layout, &workspace);
            let [dq, dk, dv] = backward(&d_o, [&q, &k, &v], &o, &saved, layout, &workspace);
            [o, dq, dk, dv].map(|m| m.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        })
    };
    let one = run(1);
    assert!([2, 3, 4].into_iter().all(|threads| run(threads) == one));
}
