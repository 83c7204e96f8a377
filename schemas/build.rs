//! Compiles the EFGS protobuf for the tests, which hold our own codec against generated code. The compiler is pure Rust,
//! so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/efgs.proto");
    let files = protox::compile(["efgs.proto"], ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    config.compile_fds(files)?;
    Ok(())
}
