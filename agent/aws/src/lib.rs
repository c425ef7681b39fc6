//! AWS collectors; nothing else depends on the AWS SDK.
