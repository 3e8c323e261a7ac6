//! Measures an update of the translation: with an empty memo, after a change of one router, and after a change of one
//! node's endpoints.

#![allow(missing_docs)] // a program, not an API
#![allow(clippy::unwrap_used)] // a benchmark may panic

#[path = "../tests/support/builders.rs"]
#[allow(dead_code, unreachable_pub)] // shared with the tests
mod builders;

use std::sync::Arc;

use divan::Bencher;
use evermesh_model::{Graph, Health};
use evermesh_translate::{DeriveMemo, derive, derive_changes, load_assignments};

const SIZES: [usize; 2] = [1_000, 5_000];

fn main() {
    for size in SIZES {
        print_sizes(size);
    }
    divan::main();
}

/// Prints the number of resources and their average size in bytes, by type.
#[allow(clippy::print_stdout)] // a benchmark's result
fn print_sizes(n: usize) {
    let derived = derive(&builders::large(n), &mut DeriveMemo::default());
    println!("{n} nodes: {} views", derived.views.len());
    for kind in evermesh_proto::ResourceType::ALL {
        let of_kind = derived.resources.values().filter(|it| it.kind == kind);
        let (count, bytes) = of_kind.fold((0, 0), |(count, bytes), resource| {
            (count + 1, bytes + resource.body.len())
        });
        if let Some(each) = bytes.checked_div(count) {
            println!("  {kind}: {count}, {each} bytes each on average");
        }
    }
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn empty_memo(bencher: Bencher<'_, '_>, n: usize) {
    let graph = builders::large(n);
    bencher.bench_local(|| derive(&graph, &mut DeriveMemo::default()));
}

#[divan::bench(args = SIZES)]
fn one_router(bencher: Bencher<'_, '_>, n: usize) {
    let graphs = [10, 90].map(|weight| {
        let mut graph = builders::large(n);
        builders::add_router(&mut graph, builders::large_router(n / 2, n, weight));
        graph
    });
    alternate(bencher, &shared(graphs));
}

#[divan::bench(args = SIZES)]
fn one_set_of_endpoints(bencher: Bencher<'_, '_>, n: usize) {
    let graphs = [10, 90].map(|last| {
        let mut graph = builders::large(n);
        let name = graph.nodes.keys().nth(n / 2).unwrap().clone();
        let endpoint = builders::endpoint("eu-west-1a", [10, 9, 9, last], Health::Healthy);
        Arc::make_mut(&mut graph.endpoints).insert(name, Arc::new(vec![endpoint]));
        graph
    });
    alternate(bencher, &shared(graphs));
}

/// Measures a copy of all resources, which [`derive`] makes after an update.
#[divan::bench(args = SIZES)]
fn copy_of_everything(bencher: Bencher<'_, '_>, n: usize) {
    let mut memo = DeriveMemo::default();
    derive_changes(&builders::large(n), &mut memo);
    bencher.bench_local(|| drop(memo.derived().clone()));
}

#[divan::bench]
fn load_assignments_of_one_node(bencher: Bencher<'_, '_>) {
    let graph = builders::large(10);
    let (name, node) = graph.nodes.first_key_value().unwrap();
    let endpoints = &graph.endpoints[name];
    bencher.bench_local(|| load_assignments(node, endpoints));
}

/// Makes the graphs share equal objects and equal maps by pointer, as consecutive builds of ingest do.
fn shared([one, mut other]: [Graph; 2]) -> [Graph; 2] {
    macro_rules! share {
        ($($map:ident)+) => {$(
            for (key, value) in Arc::make_mut(&mut other.$map) {
                if let Some(same) = one.$map.get(key).filter(|it| *it == value) {
                    *value = Arc::clone(same);
                }
            }
            if one.$map == other.$map {
                other.$map = Arc::clone(&one.$map);
            }
        )+};
    }
    share!(meshes nodes services routers gateways endpoints);
    [one, other]
}

fn alternate(bencher: Bencher<'_, '_>, graphs: &[Graph; 2]) {
    let mut memo = DeriveMemo::default();
    derive_changes(&graphs[0], &mut memo);
    let mut count = 0;
    bencher.bench_local(|| {
        count += 1;
        derive_changes(&graphs[count % 2], &mut memo)
    });
}
