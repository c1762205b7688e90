//! The kernel against libtorch's operations, and rows against the same rows alone.

use tch::Device;

use super::*;
use crate::{
    gpu::packed_spans::PackedSpans,
    pass::masks,
    testing::{assert_close, devices, random},
};

type Cache = (Tensor, Tensor);

fn layer(caches: &[Cache]) -> Vec<[&Tensor; 2]> {
    caches.iter().map(|(keys, values)| [keys, values]).collect()
}

fn attend_to(qkv: &Tensor, heads: HeadShape, spans: Vec<Span>, caches: &[Cache]) -> Tensor {
    let layer = layer(caches);
    attend(qkv, &PassPlan::new(heads, spans, &layer), &layer)
}

fn operations(qkv: &Tensor, heads: HeadShape, spans: Vec<Span>, caches: &[Cache]) -> Tensor {
    let layer = layer(caches);
    let masks = masks(&spans, qkv.kind(), qkv.device());
    fallback(qkv, &PassPlan::new(heads, spans, &layer), &masks, &layer)
}

const HEADS: [HeadShape; 3] = [
    HeadShape { queries: 6, keys: 2, width: 8 },
    HeadShape { queries: 9, keys: 3, width: 64 },
    HeadShape { queries: 4, keys: 4, width: 108 },
];

#[test]
fn the_kernel_equals_the_operation() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for heads in HEADS {
            let parents: Vec<Option<usize>> = vec![None, Some(0), Some(1), Some(0), Some(3), None, Some(5)];
            let spans = || {
                vec![
                    Span::chain(0, 0..1, 17),
                    Span::tree(1, 1..8, 5, &parents),
                    Span::chain(2, 8..60, 0),
                    Span::chain(3, 60..63, 40),
                ]
            };
            let qkv = random(&[63, heads.row_len() as i64], kind);
            let cache = || random(&[heads.keys as i64, 70, heads.width as i64], kind);
            let caches = [(); 4].map(|()| (cache(), cache()));
            let found = attend_to(&qkv, heads, spans(), &caches);
            assert_close(&found, &operations(&qkv, heads, spans(), &caches), &format!("{heads:?}"));
        }
    }
}

/// Uncached runs that follow different parts of one cache, against the same runs stored in caches of their own.
#[test]
fn an_uncached_run_sees_what_it_follows_and_itself() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for heads in HEADS {
            let (h, d) = (heads.keys as i64, heads.width as i64);
            let (queries, row) = (heads.queries as i64, heads.row_len() as i64);
            let qkv = random(&[90, row], kind);
            let (keys, values) = (random(&[h, 40, d], kind), random(&[h, 40, d], kind));
            let runs = [(0..3, 0), (3..30, 31), (30..80, 40), (80..81, 7), (81..90, 40)];
            let spans =
                || runs.iter().map(|(rows, cached)| Span::uncached(0, rows.clone(), *cached)).collect();
            let cache = [(keys.shallow_clone(), values.shallow_clone())];
            let together = attend_to(&qkv, heads, spans(), &cache);
            assert_close(&together, &operations(&qkv, heads, spans(), &cache), &format!("{heads:?}"));
            for (rows, cached) in runs.clone() {
                let (start, count) = (rows.start as i64, rows.len() as i64);
                let own = qkv.narrow(0, start, count).contiguous();
                let followed_by_own = |cache: &Tensor, first: i64| {
                    let part = own.narrow(1, first * d, h * d).view([count, h, d]).transpose(0, 1);
                    Tensor::cat(&[cache.narrow(1, 0, cached as i64), part], 1).contiguous()
                };
                let cache = [(followed_by_own(&keys, queries), followed_by_own(&values, queries + h))];
                let alone = attend_to(&own, heads, vec![Span::chain(0, 0..rows.len(), cached)], &cache);
                assert!(alone.equal(&together.narrow(0, start, count)), "{kind:?} {rows:?}");
            }
        }
    }
}

/// A stored run is computed together with the uncached ones of the same cache.
#[test]
fn a_stored_run_sees_nothing_of_uncached_ones() {
    type New = fn(usize, Range<usize>, usize) -> Span;
    for kind in [Kind::Float, Kind::BFloat16] {
        for heads in HEADS {
            let shape = [heads.keys as i64, 40, heads.width as i64];
            let qkv = random(&[14, heads.row_len() as i64], kind);
            let caches = [(); 2].map(|()| (random(&shape, kind), random(&shape, kind)));
            let runs: [(New, usize, Range<usize>, usize); 5] = [
                (Span::chain, 0, 0..1, 21),
                (Span::uncached, 0, 1..5, 21),
                (Span::uncached, 0, 5..8, 3),
                (Span::chain, 1, 8..10, 7),
                (Span::uncached, 1, 10..14, 30),
            ];
            let spans: Vec<Span> =
                runs.iter().map(|(new, cache, rows, cached)| new(*cache, rows.clone(), *cached)).collect();
            assert_eq!(row_groups(&spans, heads).len(), 2);
            let together = attend_to(&qkv, heads, spans, &caches);
            for (new, cache, rows, cached) in runs {
                let own = part(&qkv, 0, &rows).contiguous();
                let alone = attend_to(&own, heads, vec![new(cache, 0..rows.len(), cached)], &caches);
                assert!(alone.equal(&part(&together, 0, &rows)), "{kind:?} {rows:?}");
            }
        }
    }
}

/// The same tokens as a branch among others, and as the only ones.
#[test]
fn a_row_sees_its_path_alone_and_nothing_of_where_it_lies() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let heads = HEADS[1];
        let (h, d) = (heads.keys as i64, heads.width as i64);
        let qkv = random(&[7, heads.row_len() as i64], kind);
        let (keys, values) = (random(&[h, 40, d], kind), random(&[h, 40, d], kind));
        let parents: Vec<Option<usize>> = vec![None, Some(0), Some(1), Some(0), Some(3), Some(4), Some(1)];
        let path = [0, 3, 4, 5];
        let moved = |x: &Tensor| {
            let x = x.copy();
            for (depth, row) in (0..).zip(path) {
                x.narrow(1, 20 + depth, 1).copy_(&x.narrow(1, 20 + row, 1).copy());
            }
            x
        };
        let alone = [(moved(&keys), moved(&values))];
        let tree = vec![Span::tree(0, 0..7, 20, &parents)];
        let together = attend_to(&qkv, heads, tree, &[(keys, values)]);
        for (depth, row) in path.into_iter().enumerate() {
            let own = qkv.narrow(0, row, 1).contiguous();
            let found = attend_to(&own, heads, vec![Span::chain(0, 0..1, 20 + depth)], &alone);
            assert!(found.equal(&together.narrow(0, row, 1)), "{kind:?} row {row}");
        }
    }
}

#[test]
fn spans_in_one_call_equal_spans_by_themselves() {
    let heads = HeadShape { queries: 6, keys: 2, width: 16 };
    let capacity = 30i64;
    for device in devices("spans in one call") {
        for kind in [Kind::Float, Kind::BFloat16] {
            // Three caches in one memory; the last one is used first.
            let [keys, values] = [(); 2].map(|()| random(&[2, 3 * capacity, 16], kind));
            let slots = |x: &Tensor, at: i64| x.narrow(1, at * capacity, capacity);
            let qkv = random(&[16, heads.row_len() as i64], kind);
            let stored = || vec![Span::chain(2, 0..4, 7), Span::chain(0, 4..5, 20), Span::chain(1, 5..16, 0)];
            let uncached =
                || vec![Span::uncached(2, 0..4, 7), Span::uncached(2, 4..6, 3), Span::uncached(0, 6..16, 11)];
            // Trees of which two have about the same size, a chain, and rows that are not stored.
            let trees = || {
                let tree = |cache, rows: Range<usize>, cached| {
                    let parents = [None, Some(0), Some(0), Some(1), Some(2), Some(2)];
                    Span::tree(cache, rows.clone(), cached, &parents[..rows.len()])
                };
                vec![
                    tree(2, 0..5, 7),
                    Span::chain(0, 5..6, 20),
                    tree(1, 6..12, 3),
                    Span::uncached(1, 12..14, 2),
                    tree(0, 14..16, 0),
                ]
            };
            for spans in [stored as fn() -> Vec<Span>, uncached, trees] {
                let apart: [Cache; 3] =
                    [0, 1, 2].map(|at| (slots(&keys, at).contiguous(), slots(&values, at).contiguous()));
                let own = |span: &Span| {
                    let [_, keys, values] = heads.split(&qkv);
                    [keys, values].map(|own| part(&own, 0, &span.rows).transpose(0, 1))
                };
                let stored = |span: &Span, caches: [&Tensor; 2]| {
                    let stored = span.stored()?;
                    Some(caches.map(|cache| part(cache, 1, &stored)))
                };
                for span in spans() {
                    for (place, own) in
                        stored(&span, layer(&apart)[span.cache]).into_iter().flatten().zip(own(&span))
                    {
                        place.shallow_clone().copy_(&own);
                    }
                }
                let expected = operations(&qkv, heads, spans(), &apart);
                let [keys, values] = [&keys, &values].map(|x| x.to_device(device).copy());
                let caches: [Cache; 3] = [0, 1, 2].map(|at| (slots(&keys, at), slots(&values, at)));
                let (layer, spans, there) = (layer(&caches), spans(), qkv.to_device(device));
                let packed = PackedSpans::new(&spans, &layer, device).expect("one memory");
                packed.store(&there, heads, &layer);
                let found = packed.attend(&there, heads, &layer);
                for span in &spans {
                    let rows = |x: &Tensor| part(x, 0, &span.rows);
                    let what = format!("attention of {:?}", span.rows);
                    assert_close(&rows(&found.to_device(Device::Cpu)), &rows(&expected), &what);
                }
                for span in &spans {
                    for (place, own) in stored(span, layer[span.cache]).into_iter().flatten().zip(own(span)) {
                        assert!(place.to_device(Device::Cpu).equal(&own), "{:?}", span.rows);
                    }
                }
            }
        }
    }
}
