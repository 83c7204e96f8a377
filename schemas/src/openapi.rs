//! The HTTP contract as OpenAPI 3.1, in parts: what all operations share, and the paths by subject. Problems stand there
//! by their codes, under `problems`; whoever serves the document writes them out.

/// Information, security, headers and schemas.
pub const CONTRACT: &str = include_str!("../openapi/contract.json");

/// Objects of paths.
pub const PATHS: &[&str] = &[
    include_str!("../openapi/upload.json"),
    include_str!("../openapi/download.json"),
    include_str!("../openapi/callbacks.json"),
    include_str!("../openapi/service.json"),
];
