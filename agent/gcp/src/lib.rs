//! Google Cloud collectors, through Cloud Asset Inventory.
