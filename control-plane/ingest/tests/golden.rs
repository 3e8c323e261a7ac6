//! Golden tests: the manifests in `testdata/FEATURE/CASE/in.yaml` produce the graph and the problems in `out.snap`.

mod fixture;

use std::process::ExitCode;

use evermesh_golden::GoldenCase;
use evermesh_ingest::{BuildMemo, build};
use evermesh_model::{Graph, Problem};
use serde::Serialize;

#[derive(Serialize)]
struct Snapshot<'a> {
    graph: &'a Graph,
    problems: &'a [Problem],
}

fn main() -> ExitCode {
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    evermesh_golden::run(testdata, manifests_become_graph_and_problems)
}

fn manifests_become_graph_and_problems(case: &GoldenCase) {
    let inputs = fixture::inputs(&case.input);
    let built = build(&inputs, &mut BuildMemo::default());
    for (name, node) in &*built.graph.nodes {
        let mesh = &built.graph.meshes[&name.mesh];
        let expected = built.graph.endpoints.get(name);
        let endpoints = evermesh_ingest::endpoints(node, mesh, &inputs);
        assert_eq!(
            endpoints.as_ref(),
            expected.map(|endpoints| &**endpoints),
            "endpoints() of {name} differs from build()"
        );
    }
    case.assert_snapshot(&Snapshot {
        graph: &built.graph,
        problems: &built.problems,
    });
}
