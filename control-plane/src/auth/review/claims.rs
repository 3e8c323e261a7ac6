//! Reads the claims of a service account token before the API server verifies the token.
//!
//! Unverified claims may only lead to a rejection, because any client can write any claims into a token.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Time for which the API server accepts a token after its `exp`, for clock skew.
const LEEWAY: Duration = Duration::from_mins(1);

/// The claims of a JSON Web Token (RFC 7519, section 4.1) that are checked.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Audiences,
    /// Seconds since 1970-01-01 00:00 UTC.
    exp: Option<u64>,
}

/// The claim `aud`: one audience or a list.
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
    /// Parses a token in JWS compact form: header, claims and signature.
    pub(super) fn read(token: &str) -> Result<Self, &'static str> {
        let parts: Option<Vec<_>> = token
            .split('.')
            .map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok())
            .collect();
        let Some([_header, claims, _signature]) = parts.as_deref() else {
            return Err("the token is not a JSON Web Token, so not a service account token");
        };
        serde_json::from_slice(claims)
            .map_err(|_unreadable| "the claims of the token cannot be parsed")
    }

    /// The time at which the token expires, if it has `exp`.
    ///
    /// # Errors
    /// The token is for another audience or has expired.
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
            return Err("the token is for another audience");
        }
        let end = |exp| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(exp));
        let end = self.exp.and_then(end);
        match end.and_then(|end| end.checked_add(LEEWAY)) {
            Some(last) if last <= now => Err("the token has expired"),
            _ => Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(claims: &str) -> Result<Option<u64>, &'static str> {
        let token = format!("e30.{}.eA", BASE64_URL_SAFE_NO_PAD.encode(claims));
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let end = Claims::read(&token)?.check("evermesh", now)?;
        Ok(end.map(|end| {
            let since = end.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap().as_secs()
        }))
    }

    #[test]
    fn tokens_are_rejected_for_their_audience_expiry_and_form() {
        const OTHER: &str = "the token is for another audience";
        for (claims, expected) in [
            (r#"{"aud":["a","evermesh"],"exp":2000}"#, Ok(Some(2_000))),
            (r#"{"aud":"evermesh"}"#, Ok(None)),
            (r#"{"aud":"evermesh","exp":18446744073709551615}"#, Ok(None)),
            (r#"{"aud":"evermesh","exp":941}"#, Ok(Some(941))),
            (
                r#"{"aud":"evermesh","exp":940}"#,
                Err("the token has expired"),
            ),
            (r#"{"aud":["a"],"exp":2000}"#, Err(OTHER)),
            (r#"{"aud":"a"}"#, Err(OTHER)),
            (r#"{"exp":2000}"#, Err(OTHER)),
            (
                r#"{"aud":7}"#,
                Err("the claims of the token cannot be parsed"),
            ),
            (
                r#"{"aud":"evermesh","exp":"x"}"#,
                Err("the claims of the token cannot be parsed"),
            ),
            ("", Err("the claims of the token cannot be parsed")),
        ] {
            assert_eq!(checked(claims), expected, "{claims}");
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
                "the token is not a JSON Web Token, so not a service account token",
                "{token}"
            );
        }
    }
}
