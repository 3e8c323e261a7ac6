//! What becomes of manifests: `testdata/<feature>/<case>/in.yaml` → the graph and the problems in `out.yaml`
//! beside it. Regenerate with `INSTA_UPDATE=always cargo test -p evermesh-ingest --test golden`, and read
//! the diff.

mod fixture;

use evermesh_ingest::{BuildMemo, build};
use evermesh_model::{Graph, Problem};
use serde::Serialize;

#[derive(Serialize)]
struct Out<'a> {
    graph: &'a Graph,
    problems: &'a [Problem],
}

#[test]
#[allow(clippy::disallowed_methods)] // a test reads its cases
fn golden() {
    insta::glob!("../testdata", "*/*/in.yaml", |path| {
        let inputs = fixture::inputs(&std::fs::read_to_string(path).unwrap());
        let built = build(&inputs, &mut BuildMemo::default());
        for (name, node) in &*built.graph.nodes {
            let mesh = &built.graph.meshes[&name.mesh];
            let expected = built.graph.endpoints.get(name);
            let endpoints = evermesh_ingest::endpoints(node, mesh, &inputs);
            assert_eq!(
                endpoints.as_ref(),
                expected.map(|it| &**it),
                "the short cut of {name} differs"
            );
        }
        let out = Out {
            graph: &built.graph,
            problems: &built.problems,
        };
        let folder = path.parent().unwrap();
        insta::with_settings!({
            snapshot_path => folder,
            prepend_module_to_snapshot => false,
            snapshot_suffix => "",
            omit_expression => true,
        }, {
            insta::assert_yaml_snapshot!("out", out);
        });
    });
}
