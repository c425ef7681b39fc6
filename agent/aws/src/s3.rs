//! Collectors of S3: buckets, which one list holds for all regions, and access points.

pub(crate) mod access_point;
pub(crate) mod bucket;
pub(crate) mod bucket_settings;
