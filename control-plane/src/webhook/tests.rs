use std::{fs, time::SystemTime};

use super::*;
use crate::webhook::authority::CertificatePair;

fn pair() -> CertificatePair {
    let names = BTreeSet::from(["webhook.test".to_owned()]);
    let created = authority::renew(None, &names, SystemTime::now());
    created.unwrap().unwrap().serving
}

#[test]
fn broken_certificate_files_keep_the_last_good_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let write = |certificate: &str, key: &str| {
        fs::write(folder.path().join("tls.crt"), certificate).unwrap();
        fs::write(folder.path().join("tls.key"), key).unwrap();
    };
    let certificates = Arc::new(ServingCertificate::default());
    let mut reloader =
        certificate_reloader(folder.path(), Arc::clone(&certificates), &Arc::default());
    reloader.check().unwrap_err();
    assert!(!certificates.is_loaded());

    let (first, second) = (pair(), pair());
    write(&first.certificate, &first.key);
    assert!(reloader.check().unwrap());
    assert!(certificates.serves(first.certificate.as_bytes()));

    write(&second.certificate, &first.key);
    reloader.check().unwrap_err();
    assert!(certificates.serves(first.certificate.as_bytes()));

    write(&second.certificate, &second.key);
    assert!(reloader.check().unwrap());
    assert!(certificates.serves(second.certificate.as_bytes()));
}

#[test]
fn certificate_is_valid_for_the_names_of_both_services() {
    let name = |text: &str| text.parse::<NamespacedName>().unwrap();
    let own = OwnAuthority {
        secret: name("mesh/secret"),
        service: name("mesh/webhook"),
        xds_service: Some(name("other/xds")),
        hosts: ["127.0.0.1".to_owned()].into(),
        mutating: String::new(),
        validating: String::new(),
    };
    let expected = [
        "127.0.0.1",
        "webhook.mesh.svc",
        "webhook.mesh.svc.cluster.local",
        "xds.other.svc",
        "xds.other.svc.cluster.local",
    ];
    assert_eq!(own.names(), expected.map(str::to_owned).into());
}

#[test]
fn authorities_of_sidecars_follow_their_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    let (first, second) = (pair(), pair());
    fs::write(&file, &first.certificate).unwrap();
    let (mut reloader, authority) =
        authority_reloader(file.clone(), &first.certificate, &Arc::default());
    assert!(!reloader.check().unwrap());
    assert_eq!(**authority.borrow(), first.certificate);

    fs::write(&file, format!("{}{}", second.certificate, second.key)).unwrap();
    let error = format!("{:#}", reloader.check().unwrap_err());
    assert!(error.contains("no private key"), "{error}");
    assert_eq!(**authority.borrow(), first.certificate);

    fs::write(&file, &second.certificate).unwrap();
    assert!(reloader.check().unwrap());
    assert_eq!(**authority.borrow(), second.certificate);
}
