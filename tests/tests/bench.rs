//! That the benchmarks still work. What they measure in so little time says nothing.

use std::process::Command;

use keyferry_tests::bench::report::read;

#[test]
fn a_quick_run_measures_everything() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("summary.json");
    std::fs::write(folder.path().join("stages.json"), r#"{"stage_decode_ns_per_key": 2.5}"#).unwrap();
    let run =
        Command::new(env!("CARGO_BIN_EXE_bench")).args(["--quick", "--into"]).arg(&file).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success(), "{err}");
    let figures = read(&file).unwrap();
    for name in [
        "processor_keys_per_s_5000x4",
        "processor_keys_per_s_5000x26",
        "processor_2_keys_per_s_100x26",
        "processor_share_of_ceiling_5000x4",
        "processor_share_of_ceiling_5000x26",
        "remembered_bytes_per_key",
        "restore_20m_s",
        "full_over_empty",
        "stored_bytes_per_key_4",
        "scale_out_2_over_1",
        "stage_decode_ns_per_key",
    ] {
        assert!(
            figures.get(name).and_then(serde_json::Value::as_f64).is_some_and(|v| v > 0.0),
            "{name}: {out}"
        );
    }
    // Sizes do not depend on how quick a machine is.
    let stored = figures["stored_bytes_per_key_4"].as_f64().unwrap();
    assert!((100.0..500.0).contains(&stored), "{stored} bytes a key");
    assert!(out.contains("| members | 27 | 27 | 195 |"), "{out}");
}
