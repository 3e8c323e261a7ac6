use std::fs;

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
    let mut reloader = certificate_reloader(folder.path(), Arc::clone(&certificates));
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
