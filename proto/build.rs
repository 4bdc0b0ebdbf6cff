//! Compiles the .proto files with protox: no protoc is needed.
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("proto");
    let files = [
        "nezha/v1/kv.proto",
        "nezha/v1/pipeline.proto",
        "nezha/v1/cluster.proto",
        "nezha/v1/maintenance.proto",
        "nezha/peer/v1/peer.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, [&root])?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
