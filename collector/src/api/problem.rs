//! Errors as RFC 9457 `application/problem+json`: `type` for programs, `detail` for the person, who is told what to do.

use crate::core::{ReleaseError, VerdictError};
use crate::executor::halt::HaltError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;

/// An answer other than the one asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A URN that never changes.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: &'static str,
    /// The HTTP status.
    #[serde(serialize_with = "code")]
    pub status: StatusCode,
    /// What happened, on what, and what to do.
    pub detail: Cow<'static, str>,
    /// Seconds to wait before trying again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

fn code<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    /// A problem of the kind `urn:railwatch:problem:NAME`.
    pub fn new(status: StatusCode, name: &str, title: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: format!("urn:railwatch:problem:{name}"),
            title,
            status,
            detail: detail.into(),
            retry_after_s: None,
        }
    }

    /// The same, to be tried again after so many seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// What was asked for does not exist.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
    }

    /// The request makes no sense.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be understood", detail)
    }

    /// The collector cannot answer now.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The collector cannot answer now", detail)
            .retry_after(1)
    }
}

impl From<VerdictError> for Problem {
    fn from(error: VerdictError) -> Self {
        match error {
            VerdictError::Unknown(_) => Self::not_found(error.to_string()),
            VerdictError::NotWaiting { .. } => Self::new(
                StatusCode::CONFLICT,
                "not-waiting",
                "The decision does not wait for a verdict",
                error.to_string(),
            ),
            VerdictError::Core(_) => Self::unavailable(error.to_string()),
        }
    }
}

impl From<HaltError> for Problem {
    fn from(error: HaltError) -> Self {
        Self::unavailable(format!(
            "{error}; `railwatch halt` on the collector's host says more, and `df` whether its disk is full"
        ))
    }
}

impl From<ReleaseError> for Problem {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::Switch(error) => error.into(),
            ReleaseError::Core(error) => Self::unavailable(error.to_string()),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry_after_s) = (self.status, self.retry_after_s);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"railwatch\""));
        }
        if let Some(seconds) = retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
