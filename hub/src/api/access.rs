//! Signs and checks access tokens. `AccessKeys::from_pkcs8(&[u8]) -> Result<AccessKeys, _>` is what serve.rs calls.
