//! edgeproxy: what every request pays (the lookup), and what a change of containers pays (compiling the table).

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use edgeproxy::host::split_authority;
use edgeproxy::route::{EntryPoint, RequestView, RouteTable};
use edgeproxy::rule::Rule;
use hybrid_benches::{containers, host};

fn main() {
    divan::main();
}

const ROUTES: [usize; 3] = [10, 1_000, 10_000];

/// The host header to its route; the hosts are visited in turn.
#[divan::bench(args = ROUTES)]
fn lookup(bencher: Bencher<'_, '_>, routes: usize) {
    let (table, diagnostics) = RouteTable::compile(&containers(routes));
    assert_eq!((table.routes().len(), diagnostics.len()), (routes, 0));
    let hosts: Vec<String> = (0..routes).map(host).collect();
    let mut turn = hosts.iter().cycle();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let authority = turn.next().expect("a cycle does not end");
        let (host, _) = split_authority(black_box(authority)).expect("a valid host");
        table.lookup(&RequestView::new(EntryPoint::Https, &host, "/")).is_some()
    });
}

/// A host that nobody has.
#[divan::bench(args = ROUTES)]
fn lookup_of_nothing(bencher: Bencher<'_, '_>, routes: usize) {
    let (table, _) = RouteTable::compile(&containers(routes));
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        table.lookup(&RequestView::new(EntryPoint::Https, black_box("nobody.example.org"), "/")).is_none()
    });
}

/// All labels to a new table.
#[divan::bench(args = ROUTES)]
fn compile(bencher: Bencher<'_, '_>, routes: usize) {
    let snapshot = containers(routes);
    bencher.counter(ItemsCount::new(routes)).bench_local(|| RouteTable::compile(black_box(&snapshot)));
}

/// One rule of some size.
#[divan::bench]
fn parse_rule(bencher: Bencher<'_, '_>) {
    let text =
        "Host(`a.example.org`, `b.example.org`) && (PathPrefix(`/api`) || !Path(`/`)) && Method(`GET`)";
    bencher.bench_local(|| Rule::parse(black_box(text)).is_ok());
}
