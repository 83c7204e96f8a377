//! Compiles the EFGS protobuf with a pure-Rust compiler, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/efgs.proto");
    let files = protox::compile(["efgs.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    // `bytes::Bytes` fields borrow the received buffer: no copy of key data on the way through.
    config.bytes(["."]);
    // Key material must never reach a log by way of a derived Debug.
    config.skip_debug(["."]);
    config.compile_fds(files)?;
    Ok(())
}
