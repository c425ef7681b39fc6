//! identity.rs calls: `Material::generate(now: Timestamp) -> Result<Material, CaError>`,
//! `Material::to_bytes(&self) -> Zeroizing<Vec<u8>>`, `Material::from_bytes(&[u8]) -> Result<Material, CaError>`,
//! `Authority::load(&Material) -> Result<Authority, CaError>`; serve.rs, init: `Authority::pin(&self) -> Pin`;
//! `CaError: Explain`.
