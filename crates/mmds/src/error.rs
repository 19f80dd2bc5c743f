//! What the service refuses, in the words that Firecracker's users test for.

use crate::token::{LIFETIME_SECONDS_MAX, LIFETIME_SECONDS_MIN};

/// What the service refuses: the first two to the host, the others to the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing was put yet that could be patched.
    #[error("The MMDS data store is not initialized.")]
    NotInitialized,
    /// The document would be longer than the store's limit.
    #[error("The MMDS patch request doesn't fit.")]
    LimitExceeded,
    /// There is nothing at this path.
    #[error("Resource not found: {0}.")]
    NotFound(String),
    /// What is there has no form as text.
    #[error("Cannot retrieve value. The value has an unsupported type.")]
    UnsupportedType,
    /// The request names no path.
    #[error("Invalid URI.")]
    InvalidUri,
    /// The service does not do this.
    #[error("Not allowed HTTP method.")]
    MethodNotAllowed,
    /// The request has no token, and needs one.
    #[error(
        "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to \
         specify the session token."
    )]
    NoToken,
    /// The token is not of this service, or it is too old.
    #[error("MMDS token not valid.")]
    InvalidToken,
    /// A token was asked for, but not how long it shall live.
    #[error(
        "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or \
         `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime."
    )]
    NoLifetime,
    /// No token lives as long as was asked for.
    #[error(
        "Invalid time to live value provided for token: {0}. Please provide a value between \
         {LIFETIME_SECONDS_MIN} and {LIFETIME_SECONDS_MAX}."
    )]
    Lifetime(u32),
    /// A header's value has not the form that it must have.
    #[error("Invalid header. Reason: Invalid value. Key:{name}; Value:{value}")]
    HeaderValue {
        /// The header as it was sent.
        name: String,
        /// Its value.
        value: String,
    },
    /// A proxy passed the request on; tokens are not given to those.
    #[error("Invalid header. Reason: Unsupported header name. Key: {0}")]
    Forwarded(String),
    /// This is no HTTP request, or one with a body.
    #[error("Invalid request.")]
    InvalidRequest,
    /// A method that the service does not know at all.
    #[error("Unsupported HTTP method.")]
    UnsupportedMethod,
    /// Not HTTP 1.0 or 1.1.
    #[error("Unsupported HTTP version.")]
    UnsupportedVersion,
}
