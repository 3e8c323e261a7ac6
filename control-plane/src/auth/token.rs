//! Bearer tokens: reads the token of a stream and compares it with the file of shared tokens.

use std::{fs, path::Path};

use anyhow::{Context, ensure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::{HeaderMap, header::AUTHORIZATION};

use super::StreamDenial;

/// Authorization scheme of AWS Signature Version 4, which proxies of App Mesh send.
const AWS_SIGNATURE: &str = "AWS4-HMAC-SHA256";

/// The bearer token of a stream, or the reason why there is none. Other credentials, such as the AWS signature of a
/// proxy of App Mesh, count as none.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, &'static str> {
    let value = headers.get(AUTHORIZATION);
    let value = value.ok_or("the authorization header is missing")?.to_str();
    let (scheme, token) = value
        .unwrap_or_default()
        .split_once(' ')
        .unwrap_or_default();
    let token = token.trim();
    if scheme == AWS_SIGNATURE {
        Err(
            "the authorization header is an AWS signature, as proxies of App Mesh send it, and not a bearer token",
        )
    } else if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() {
        Ok(token)
    } else {
        Err("the authorization header does not hold a bearer token")
    }
}

/// Reads the tokens in a file, one per line.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<String>> {
    let problem = || format!("--xds-token-file {}", file.display());
    let text = fs::read_to_string(file).with_context(problem)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: Vec<String> = lines.map(str::to_owned).collect();
    ensure!(!tokens.is_empty(), "{}: the file holds no token", problem());
    Ok(tokens)
}

/// Checks that the token is in the file. The file is read each time, so that a new token takes effect at once.
pub(super) fn check(
    file: &Path,
    token: Result<&str, &'static str>,
) -> Result<(), (StreamDenial, String)> {
    let token = token.map_err(|why| (StreamDenial::NoCredentials, why.to_owned()))?;
    let known = read(file).map_err(|error| (StreamDenial::Unchecked, format!("{error:#}")))?;
    let is_equal = |known: &String| {
        let equal = verify_slices_are_equal(known.as_bytes(), token.as_bytes());
        equal.is_ok()
    };
    if known.iter().any(is_equal) {
        Ok(())
    } else {
        let why = "the token is not in --xds-token-file".to_owned();
        Err((StreamDenial::BadCredentials, why))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_bearer_credentials_are_a_token() {
        let token = |value: &'static str| {
            let value = HeaderValue::from_static(value);
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            bearer(&headers).map(str::to_owned)
        };
        bearer(&HeaderMap::new()).unwrap_err();
        assert_eq!(token("Bearer abc").as_deref(), Ok("abc"));
        assert_eq!(token("bearer abc").as_deref(), Ok("abc"));
        for other in ["Bearer", "Bearer ", "abc", ""] {
            token(other).unwrap_err();
        }
        let signed = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/appmesh/aws4_request";
        assert!(token(signed).unwrap_err().contains("App Mesh"));
    }

    #[test]
    fn token_file_is_read_for_each_check() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens");
        let checked = |token: Option<&str>| {
            let result = check(&file, token.ok_or("none"));
            result.map_err(|(denial, _)| denial)
        };
        assert_eq!(checked(Some("one")), Err(StreamDenial::Unchecked));
        fs::write(&file, "\n").unwrap();
        assert_eq!(checked(Some("")), Err(StreamDenial::Unchecked));
        fs::write(&file, "one\n two \n").unwrap();
        assert_eq!(checked(Some("one")), Ok(()));
        assert_eq!(checked(Some("two")), Ok(()));
        assert_eq!(checked(Some("three")), Err(StreamDenial::BadCredentials));
        assert_eq!(checked(None), Err(StreamDenial::NoCredentials));
        fs::write(&file, "three").unwrap();
        assert_eq!(checked(Some("one")), Err(StreamDenial::BadCredentials));
        assert_eq!(checked(Some("three")), Ok(()));
    }
}
