use std::slice;

use http::{HeaderMap, HeaderValue, header::DATE};

use super::*;
use crate::server_clock::ServerClock;

const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(24 * 365);

fn names() -> BTreeSet<String> {
    ["webhook.mesh.svc", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .into()
}

fn start() -> SystemTime {
    // Certificates store whole seconds.
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

fn created() -> CertificateMaterial {
    renew(None, &names(), start()).unwrap().unwrap()
}

fn after(material: &CertificateMaterial, time: Duration) -> Option<CertificateMaterial> {
    renew(Some(material), &names(), start() + time).unwrap()
}

fn bundle(material: &CertificateMaterial) -> Vec<String> {
    split(&material.bundle).collect()
}

#[test]
fn new_material_needs_no_renewal() {
    let created = created();
    assert_eq!(
        bundle(&created),
        slice::from_ref(&created.authority.certificate)
    );
    assert!(signed_by(&created.serving, &created.authority));
    assert!(serves(&created.serving, &names()));
    let (from, until) = life(&created.serving.certificate).unwrap();
    assert_eq!((from, until), (start() - BACKDATED, start() + SERVING_LIFE));
    assert_eq!(after(&created, Duration::ZERO), None);
    assert_eq!(after(&created, 59 * DAY), None);
}

#[test]
fn certificate_is_renewed_when_a_third_of_its_lifetime_is_left() {
    let created = created();
    let renewed = after(&created, 61 * DAY).unwrap();
    assert_ne!(renewed.serving, created.serving);
    assert_eq!(renewed.authority, created.authority);
    assert_eq!(renewed.bundle, created.bundle);
    assert!(signed_by(&renewed.serving, &created.authority));
    assert_eq!(after(&renewed, 61 * DAY), None);
}

#[test]
fn next_authority_is_trusted_before_it_signs() {
    let created = created();
    let aging = 7 * YEAR;
    let introduced = after(&created, aging).unwrap();
    let next = introduced.next_authority.clone().unwrap();
    assert_eq!(introduced.authority, created.authority);
    assert!(signed_by(&introduced.serving, &created.authority));
    assert_eq!(
        bundle(&introduced),
        [
            created.authority.certificate.clone(),
            next.certificate.clone()
        ]
    );
    assert_eq!(
        after(&introduced, aging + 59 * DAY),
        None,
        "the next authority is not trusted long enough"
    );

    let waiting = after(&introduced, aging + 364 * DAY).unwrap();
    assert_eq!(waiting.authority, created.authority);
    let used = aging + TRUSTED_BEFORE_USE;
    let promoted = after(&introduced, used).unwrap();
    assert_eq!(promoted.authority, next);
    assert_eq!(promoted.next_authority, None);
    assert!(signed_by(&promoted.serving, &next));
    assert_eq!(
        bundle(&promoted),
        [next.certificate.clone(), created.authority.certificate],
        "another replica may still present a certificate of the previous authority"
    );
    assert_eq!(after(&promoted, used), None);

    let later = after(&promoted, 10 * YEAR).unwrap();
    assert_eq!(
        bundle(&later),
        [next.certificate],
        "the previous authority has expired"
    );
}

#[test]
fn consecutive_steps_trust_the_certificates_of_each_other() {
    let mut material = created();
    let mut steps = 0;
    for day in (0..30 * 365).step_by(10) {
        let Some(renewed) = after(&material, day * DAY) else {
            continue;
        };
        let is_trusted = |serving: &CertificatePair, bundle: &str| {
            split(bundle).any(|certificate| {
                let key = String::new();
                signed_by(serving, &CertificatePair { certificate, key })
            })
        };
        assert!(is_trusted(&renewed.serving, &material.bundle), "day {day}");
        assert!(is_trusted(&material.serving, &renewed.bundle), "day {day}");
        assert!(is_alive(&renewed.serving.certificate, start() + day * DAY));
        steps += 1;
        material = renewed;
    }
    assert!(steps > 150, "{steps}");
}

#[test]
fn other_names_replace_the_certificate_only() {
    let created = created();
    let names = BTreeSet::from(["other.mesh.svc".to_owned()]);
    let renewed = renew(Some(&created), &names, start()).unwrap().unwrap();
    assert!(serves(&renewed.serving, &names));
    assert_eq!(renewed.authority, created.authority);
}

#[test]
fn replicas_that_need_fewer_names_keep_the_certificate() {
    let fewer = BTreeSet::from(["webhook.mesh.svc".to_owned()]);
    assert_eq!(renew(Some(&created()), &fewer, start()).unwrap(), None);
}

/// Replicas on machines that are a day behind and eleven years ahead, which would replace the authority if they asked their
/// own clocks.
#[test]
fn replicas_whose_clocks_differ_keep_the_material_of_each_other() {
    // The time of `start`.
    let date = HeaderValue::from_static("Fri, 15 Jan 2027 08:00:00 GMT");
    let headers = HeaderMap::from_iter([(DATE, date)]);
    let created = created();
    let own_clocks: [fn() -> SystemTime; 2] = [|| start() - DAY, || start() + 11 * YEAR];
    for own in own_clocks {
        let renewed = renew(Some(&created), &names(), own()).unwrap().unwrap();
        assert_ne!(renewed.authority, created.authority, "by its own clock");
        let clock = ServerClock::with_own_clock(own);
        clock.set(&headers);
        assert_eq!(renew(Some(&created), &names(), clock.now()).unwrap(), None);
    }
}

#[test]
fn broken_or_expired_parts_are_replaced() {
    let created = created();
    let expired = after(&created, 11 * YEAR).unwrap();
    assert_ne!(expired.authority, created.authority);
    assert_eq!(
        bundle(&expired),
        slice::from_ref(&expired.authority.certificate)
    );
    let mut broken = created.clone();
    broken.authority.key = "not a key".to_owned();
    assert_ne!(after(&broken, DAY).unwrap().authority, created.authority);
    let mut broken = created.clone();
    broken.serving.certificate = "not a certificate".to_owned();
    let renewed = after(&broken, DAY).unwrap();
    assert!(signed_by(&renewed.serving, &created.authority));
    let mut broken = created.clone();
    broken.serving.key = renewed.serving.key;
    let renewed = after(&broken, DAY).unwrap();
    assert!(
        fits(&renewed.serving),
        "the key of another certificate is replaced"
    );
    let mut broken = created.clone();
    broken.bundle = String::new();
    assert_eq!(after(&broken, DAY).unwrap().bundle, created.bundle);
}
