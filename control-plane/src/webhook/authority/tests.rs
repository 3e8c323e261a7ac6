use std::slice;

use super::*;

const YEAR: Duration = Duration::from_hours(24 * 365);

fn names() -> BTreeSet<String> {
    ["webhook.mesh.svc", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .into()
}

fn start() -> SystemTime {
    // Whole seconds, as certificates have them.
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

fn made() -> CertificateMaterial {
    renew(None, &names(), start()).unwrap().unwrap()
}

fn after(material: &CertificateMaterial, time: Duration) -> Option<CertificateMaterial> {
    renew(Some(material), &names(), start() + time).unwrap()
}

fn bundle(material: &CertificateMaterial) -> Vec<String> {
    split(&material.bundle).collect()
}

#[test]
fn what_is_made_is_good_as_it_is() {
    let made = made();
    assert_eq!(bundle(&made), slice::from_ref(&made.authority.certificate));
    assert!(signed_by(&made.serving, &made.authority));
    assert!(serves(&made.serving, &names()));
    let (from, until) = life(&made.serving.certificate).unwrap();
    assert_eq!((from, until), (start() - BACKDATED, start() + SERVING_LIFE));
    assert_eq!(after(&made, Duration::ZERO), None);
    assert_eq!(after(&made, 59 * DAY), None);
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
    let made = made();
    let renewed = after(&made, 61 * DAY).unwrap();
    assert_ne!(renewed.serving, made.serving);
    assert_eq!(renewed.authority, made.authority);
    assert_eq!(renewed.bundle, made.bundle);
    assert!(signed_by(&renewed.serving, &made.authority));
    assert_eq!(after(&renewed, 61 * DAY), None);
}

#[test]
fn a_next_authority_is_trusted_before_it_signs() {
    let made = made();
    let aging = 7 * YEAR;
    let introduced = after(&made, aging).unwrap();
    let next = introduced.next_authority.clone().unwrap();
    assert_eq!(introduced.authority, made.authority);
    assert!(signed_by(&introduced.serving, &made.authority));
    assert_eq!(
        bundle(&introduced),
        [made.authority.certificate.clone(), next.certificate.clone()]
    );
    assert_eq!(after(&introduced, aging + DAY / 2), None, "it waits");

    let promoted = after(&introduced, aging + DAY).unwrap();
    assert_eq!(promoted.authority, next);
    assert_eq!(promoted.next_authority, None);
    assert!(signed_by(&promoted.serving, &next));
    assert_eq!(
        bundle(&promoted),
        [next.certificate.clone(), made.authority.certificate],
        "a replica may serve the last one still"
    );
    assert_eq!(after(&promoted, aging + DAY), None);

    let later = after(&promoted, 10 * YEAR).unwrap();
    assert_eq!(bundle(&later), [next.certificate], "it has expired");
}

#[test]
fn every_step_trusts_what_the_step_before_serves() {
    let mut material = made();
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
fn other_names_need_another_certificate() {
    let made = made();
    let names = BTreeSet::from(["other.mesh.svc".to_owned()]);
    let renewed = renew(Some(&made), &names, start()).unwrap().unwrap();
    assert!(serves(&renewed.serving, &names));
    assert_eq!(renewed.authority, made.authority);
}

#[test]
fn what_is_broken_or_expired_is_made_anew() {
    let made = made();
    let expired = after(&made, 11 * YEAR).unwrap();
    assert_ne!(expired.authority, made.authority);
    assert_eq!(
        bundle(&expired),
        slice::from_ref(&expired.authority.certificate)
    );
    let mut broken = made.clone();
    broken.authority.key = "no key".to_owned();
    assert_ne!(after(&broken, DAY).unwrap().authority, made.authority);
    let mut broken = made.clone();
    broken.serving.certificate = "no certificate".to_owned();
    let renewed = after(&broken, DAY).unwrap();
    assert!(signed_by(&renewed.serving, &made.authority));
    let mut broken = made.clone();
    broken.serving.key = renewed.serving.key;
    let renewed = after(&broken, DAY).unwrap();
    assert!(fits(&renewed.serving), "a key of another certificate");
    let mut broken = made.clone();
    broken.bundle = String::new();
    assert_eq!(after(&broken, DAY).unwrap().bundle, made.bundle);
}
