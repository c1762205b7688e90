//! The kernel against libtorch's operations, and rows against the same rows alone.

use tch::Device;

use super::*;
use crate::{memory::assert_close, testing::devices};

fn random(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

fn behind<'a>((keys, values): &'a (Tensor, Tensor), span: &'a Span) -> SpanCache<'a> {
    SpanCache { span, keys, values }
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
            let spans = [
                Span::chain(0..1, 17),
                Span::tree(1..8, 5, &parents),
                Span::chain(8..60, 0),
                Span::chain(60..63, 40),
            ];
            let qkv = random(&[63, heads.row_len() as i64], kind);
            let cache = || random(&[heads.keys as i64, 70, heads.width as i64], kind);
            let caches = [(); 4].map(|()| (cache(), cache()));
            let spans: Vec<SpanCache> =
                spans.iter().zip(&caches).map(|(span, cache)| behind(cache, span)).collect();
            let found = attend(&qkv, heads, &spans);
            assert_close(&found, &composed(&qkv, heads, &spans), &format!("{heads:?}"));
        }
    }
}

/// Runs beside what a cache holds, each behind another part of it, against the same runs behind caches of their own.
#[test]
fn a_run_aside_sees_what_it_follows_and_itself() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for heads in HEADS {
            let (h, d) = (heads.keys as i64, heads.width as i64);
            let (queries, row) = (heads.queries as i64, heads.row_len() as i64);
            let qkv = random(&[90, row], kind);
            let cache = (random(&[h, 40, d], kind), random(&[h, 40, d], kind));
            let runs = [(0..3, 0), (3..30, 31), (30..80, 40), (80..81, 7), (81..90, 40)];
            let spans: Vec<Span> =
                runs.iter().map(|(rows, cached)| Span::uncached(rows.clone(), *cached)).collect();
            let caches: Vec<SpanCache> = spans.iter().map(|span| behind(&cache, span)).collect();
            let together = attend(&qkv, heads, &caches);
            assert_close(&together, &composed(&qkv, heads, &caches), &format!("{heads:?}"));
            for (rows, cached) in runs {
                let (start, count) = (rows.start as i64, rows.len() as i64);
                let own = qkv.narrow(0, start, count).contiguous();
                let followed_by_own = |cache: &Tensor, first: i64| {
                    let part = own.narrow(1, first * d, h * d).view([count, h, d]).transpose(0, 1);
                    Tensor::cat(&[cache.narrow(1, 0, cached as i64), part], 1).contiguous()
                };
                let span = Span::chain(0..rows.len(), cached);
                let (keys, values) = &cache;
                let cache = (followed_by_own(keys, queries), followed_by_own(values, queries + h));
                let alone = attend(&own, heads, &[behind(&cache, &span)]);
                assert!(alone.equal(&together.narrow(0, start, count)), "{kind:?} {rows:?}");
            }
        }
    }
}

/// A run at the end of a cache shares keys and values with runs beside it.
#[test]
fn a_run_at_the_end_sees_nothing_of_those_beside_it() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for heads in HEADS {
            let shape = [heads.keys as i64, 40, heads.width as i64];
            let qkv = random(&[14, heads.row_len() as i64], kind);
            let caches = [0, 1].map(|_| (random(&shape, kind), random(&shape, kind)));
            let spans = [
                (0, Span::chain(0..1, 21)),
                (0, Span::uncached(1..5, 21)),
                (0, Span::uncached(5..8, 3)),
                (1, Span::chain(8..10, 7)),
                (1, Span::uncached(10..14, 30)),
            ];
            let together: Vec<SpanCache> =
                spans.iter().map(|(of, span)| behind(&caches[*of], span)).collect();
            assert_eq!(groups(&together, 48).len(), 2);
            let together = attend(&qkv, heads, &together);
            for (of, span) in &spans {
                let (start, rows) = (span.rows.start as i64, span.rows.len());
                let mut alone = Span::chain(0..rows, span.cached);
                alone.uncached = span.uncached;
                let own = qkv.narrow(0, start, rows as i64).contiguous();
                let alone = attend(&own, heads, &[behind(&caches[*of], &alone)]);
                assert!(alone.equal(&together.narrow(0, start, rows as i64)), "{kind:?} {:?}", span.rows);
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
        let cache = (random(&[h, 40, d], kind), random(&[h, 40, d], kind));
        let parents: Vec<Option<usize>> = vec![None, Some(0), Some(1), Some(0), Some(3), Some(4), Some(1)];
        let tree = Span::tree(0..7, 20, &parents);
        let together = attend(&qkv, heads, &[behind(&cache, &tree)]);
        let path = [0, 3, 4, 5];
        let moved = |x: &Tensor| {
            let x = x.copy();
            for (depth, row) in (0..).zip(path) {
                x.narrow(1, 20 + depth, 1).copy_(&x.narrow(1, 20 + row, 1).copy());
            }
            x
        };
        let cache = (moved(&cache.0), moved(&cache.1));
        for (depth, row) in path.into_iter().enumerate() {
            let alone = Span::chain(0..1, 20 + depth);
            let found = attend(&qkv.narrow(0, row, 1).contiguous(), heads, &[behind(&cache, &alone)]);
            assert!(found.equal(&together.narrow(0, row, 1)), "{kind:?} row {row}");
        }
    }
}

fn all_behind<'a>(caches: &'a [(Tensor, Tensor)], pass: &'a [(Span, i64)]) -> Vec<SpanCache<'a>> {
    caches.iter().zip(pass).map(|(cache, (span, _))| behind(cache, span)).collect()
}

#[test]
fn spans_in_one_call_equal_spans_by_themselves() {
    let heads = HeadShape { queries: 6, keys: 2, width: 16 };
    let capacity = 30i64;
    for device in devices("spans in one call") {
        for kind in [Kind::Float, Kind::BFloat16] {
            // Three caches in one memory, of which the last is asked first.
            let [keys, values] = [(); 2].map(|()| random(&[2, 3 * capacity, 16], kind));
            let qkv = random(&[9, heads.row_len() as i64], kind);
            let passes = [
                vec![(Span::chain(0..4, 7), 2), (Span::chain(4..5, 20), 0), (Span::chain(5..9, 0), 1)],
                vec![
                    (Span::uncached(0..4, 7), 2),
                    (Span::uncached(4..6, 3), 2),
                    (Span::uncached(6..9, 11), 0),
                ],
            ];
            for pass in passes {
                let caches = |keys: &Tensor, values: &Tensor| -> Vec<(Tensor, Tensor)> {
                    let of = |x: &Tensor, slot: i64| x.narrow(1, slot * capacity, capacity);
                    pass.iter().map(|&(_, slot)| (of(keys, slot), of(values, slot))).collect()
                };
                let apart = caches(&keys, &values);
                let apart: Vec<_> =
                    apart.iter().map(|(keys, values)| (keys.contiguous(), values.contiguous())).collect();
                let expected = composed(&qkv, heads, &all_behind(&apart, &pass));
                let caches = caches(&keys.to_device(device), &values.to_device(device));
                let together = all_behind(&caches, &pass);
                let packed = Packed::new(&together, device).expect("no branches, one memory");
                let found = packed.attend(&qkv.to_device(device), heads, &together);
                assert_close(&found.to_device(Device::Cpu), &expected, "attention");
                packed.store(&qkv.to_device(device), heads, &together);
                let [_, own_keys, own_values] = heads_of(&qkv, heads);
                for SpanCache { span, keys, values } in &together {
                    let Some(stored) = span.stored() else { continue };
                    for (cache, own) in [(keys, &own_keys), (values, &own_values)] {
                        let written = cache.narrow(1, stored.start as i64, stored.len() as i64);
                        let expected = own.narrow(0, span.rows.start as i64, span.rows.len() as i64);
                        assert!(
                            written.to_device(Device::Cpu).equal(&expected.transpose(0, 1)),
                            "{:?}",
                            span.rows
                        );
                    }
                }
            }
        }
    }
}
