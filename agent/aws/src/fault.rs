//! From the SDK's errors to a call and a code.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use collect::Fault;

use crate::transport::{ErrorPage, TooLarge, Truncated};

/// Longest error code that is passed on, in characters: room for the longest that we have met.
const CODE_CHARS: usize = 100;

/// Returns the provider's code, or our own lower-case reason where there was no answer.
pub(crate) fn code_of<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refused) => match refused.err().code() {
            Some(code) if is_code(code) => code.to_owned(),
            _ => unreadable(refused.raw()),
        },
        SdkError::ResponseError(error) => unreadable(error.raw()),
        SdkError::TimeoutError(_) => "timeout".to_owned(),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => "timeout".to_owned(),
        SdkError::ConstructionFailure(_) => reason_in(error, "not sent"),
        SdkError::DispatchFailure(_) => reason_in(error, "dispatch failure"),
        _ => "unknown error".to_owned(),
    }
}

/// Returns the reason of an answer that the SDK could not read.
fn unreadable(answer: &HttpResponse) -> String {
    match answer.status().as_u16() {
        200..=299 => "unreadable answer".to_owned(),
        status => format!("http status {status}"),
    }
}

/// Returns what the chain of causes tells, else `otherwise`.
pub(crate) fn reason_in(error: &(dyn Error + 'static), otherwise: &str) -> String {
    let mut cause = Some(error);
    while let Some(level) = cause {
        if level.is::<Truncated>() {
            return "truncated".to_owned();
        }
        if level.is::<ErrorPage>() {
            return "http status 500".to_owned();
        }
        if level.is::<TooLarge>() {
            return "answer too large".to_owned();
        }
        if level.is::<CredentialsError>() {
            return "no credentials".to_owned();
        }
        cause = level.source();
    }
    otherwise.to_owned()
}

/// Returns the fault of a call.
pub(crate) fn fault<E>(call: &str, error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + Error + 'static,
{
    Fault {
        call: call.to_owned(),
        code: code_of(error),
    }
}

/// Whether a text is an error code and no sentence: codes leave this host, messages do not.
pub(crate) fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= CODE_CHARS
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':'))
}
