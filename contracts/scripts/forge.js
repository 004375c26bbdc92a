#!/usr/bin/env node
// Foundry's forge with its exit code. The wrapper that npm installs answers 0 whatever forge said, so that tests which
// fail would pass.
"use strict";
const { spawnSync } = require("child_process");
const path = require("path");

const ROOT = path.resolve(__dirname, "..");
const MACHINES = { x64: "amd64", arm64: "arm64" };
const PLATFORM = `${process.platform === "win32" ? "win32" : process.platform}-${MACHINES[process.arch] || process.arch}`;

// Where npm put the program of this platform.
function forgePath() {
  const manifest = require.resolve(`@foundry-rs/forge-${PLATFORM}/package.json`, { paths: [ROOT] });
  return path.join(path.dirname(manifest), "bin", process.platform === "win32" ? "forge.exe" : "forge");
}

if (require.main === module) {
  const run = spawnSync(forgePath(), process.argv.slice(2), { stdio: "inherit" });
  if (run.error) throw run.error;
  process.exitCode = run.status === null ? 1 : run.status;
}

module.exports = { forgePath };
