//! What a token says of itself, before anybody has verified it.
//!
//! Must only lead to a refusal: whoever makes up a token writes into it what he likes.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

/// By how much the API server lets a token outlive its end.
const LEEWAY: Duration = Duration::from_mins(1);

/// The claims of a JSON Web Token (RFC 7519, section 4.1) that are looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Audiences,
    /// In seconds since 1970.
    exp: Option<u64>,
}

/// One, or a list.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Claims {
    /// Reads a token in the form in which service accounts have them: header, claims and signature.
    pub(super) fn read(token: &str) -> Result<Self, &'static str> {
        let parts: Option<Vec<_>> = token
            .split('.')
            .map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok())
            .collect();
        let Some([_header, claims, _signature]) = parts.as_deref() else {
            return Err("it is not a service account's token");
        };
        serde_json::from_slice(claims).map_err(|_unreadable| "its claims cannot be read")
    }

    /// When the token ends, if it says so; an error if it is of no use for this audience now.
    pub(super) fn check(
        &self,
        audience: &str,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, &'static str> {
        let is_for_us = match &self.aud {
            Audiences::One(one) => one == audience,
            Audiences::Several(several) => several.iter().any(|it| it == audience),
        };
        if !is_for_us {
            return Err("it says that it is for another audience");
        }
        let end = |exp| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp));
        let end = self.exp.and_then(end);
        match end.and_then(|end| end.checked_add(LEEWAY)) {
            Some(last) if last <= now => Err("it says that it has expired"),
            _ => Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(claims: &str) -> Result<Option<u64>, &'static str> {
        let token = format!("e30.{}.eA", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let end = Claims::read(&token)?.check("evermesh", now)?;
        Ok(end.map(|end| {
            let since = end.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap().as_secs()
        }))
    }

    #[test]
    fn a_token_is_of_no_use_by_its_own_words() {
        const OTHER: &str = "it says that it is for another audience";
        for (claims, expected) in [
            (r#"{"aud":["a","evermesh"],"exp":2000}"#, Ok(Some(2_000))),
            (r#"{"aud":"evermesh"}"#, Ok(None)),
            (r#"{"aud":"evermesh","exp":18446744073709551615}"#, Ok(None)),
            (r#"{"aud":"evermesh","exp":941}"#, Ok(Some(941))),
            (
                r#"{"aud":"evermesh","exp":940}"#,
                Err("it says that it has expired"),
            ),
            (r#"{"aud":["a"],"exp":2000}"#, Err(OTHER)),
            (r#"{"aud":"a"}"#, Err(OTHER)),
            (r#"{"exp":2000}"#, Err(OTHER)),
            (r#"{"aud":7}"#, Err("its claims cannot be read")),
            (
                r#"{"aud":"evermesh","exp":"x"}"#,
                Err("its claims cannot be read"),
            ),
            ("", Err("its claims cannot be read")),
        ] {
            assert_eq!(said(claims), expected, "{claims}");
        }
        for token in [
            "",
            "x",
            "e30.e30",
            "e30.e30.e30.e30",
            "e30.*.eA",
            "e30.e30.+",
        ] {
            assert_eq!(
                Claims::read(token).unwrap_err(),
                "it is not a service account's token",
                "{token}"
            );
        }
    }
}
