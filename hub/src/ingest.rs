//! serve.rs calls: `open(address: SocketAddr, identity: &Identity, tls: rustls::ServerConfig) -> Result<quinn::Endpoint, OpenPortError>`
//! and `serve(endpoint: quinn::Endpoint, hub: Arc<Hub>, stop: CancellationToken)` (async, ends after draining),
//! with `ingest::Hub { store: Store, appliance: Appliance, authority: Arc<Authority>, live: Arc<Live>, epoch: Epoch }`.
