//! Real Envoys accept every view that the golden cases of `evermesh-translate` show.
//!
//! Each case is one test per Envoy version, for instance `route/weights/1.36.4`. Over the wire Envoy accepts a route
//! to a cluster that does not exist and answers 503; in a static configuration it refuses the route. So the resources
//! of each view become one static bootstrap, which Envoy validates as a whole.
//!
//! The files and services from which proxies get certificates do not exist here. So each secret has a certificate that
//! the test made.

use std::{net::Ipv4Addr, process::ExitCode, sync::Arc};

use evermesh_proto::{ProxyView, ResourceType};
use evermesh_testkit::{
    envoy::{EnvoyVersion, validate},
    self_signed::SelfSigned,
    static_bootstrap::{ServedResources, static_bootstrap},
};
use evermesh_translate::Derived;
use libtest_mimic::{Arguments, Failed, Trial};

#[path = "../translate/tests/support/case.rs"]
mod case;

use case::TranslatedCase;

fn main() -> ExitCode {
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/translate/testdata");
    let cases = evermesh_golden::cases(testdata);
    let trials = cases.into_iter().map(Arc::new).flat_map(|golden| {
        EnvoyVersion::ALL.map(|version| {
            let golden = Arc::clone(&golden);
            let name = format!("{}/{}", golden.name, version.number());
            Trial::test(name, move || {
                envoy_accepts(&TranslatedCase::new(&golden), version)
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn envoy_accepts(case: &TranslatedCase, version: EnvoyVersion) -> Result<(), Failed> {
    let certificate = SelfSigned::new(Ipv4Addr::LOCALHOST.into())?;
    for (name, view) in case.shown() {
        let mut served = served(&case.derived, view);
        served.replace_secrets(&certificate);
        let valid = static_bootstrap(&served)
            .and_then(|bootstrap| validate(version, &bootstrap.to_string()));
        if let Err(error) = valid {
            return Err(format!("{name}: {error:#}").into());
        }
    }
    Ok(())
}

fn served(derived: &Derived, view: &ProxyView) -> ServedResources {
    let mut served = ServedResources::default();
    for (_, resource) in case::resources(derived, view) {
        let of_type = match resource.kind {
            ResourceType::Cluster => &mut served.clusters,
            ResourceType::Endpoint => &mut served.endpoints,
            ResourceType::Listener => &mut served.listeners,
            ResourceType::Route => &mut served.routes,
            ResourceType::Secret => continue,
        };
        of_type.push(case::json(resource));
    }
    served
}
