#!/usr/bin/env node
// The compiler of npm's solc (WebAssembly) behind the two options that forge uses of a native one:
// --version, and --standard-json with --base-path and --include-path.
"use strict";
const fs = require("fs");
const path = require("path");
const solc = require("solc");

const options = process.argv.slice(2);

function values(name) {
  return options.flatMap((option, i) => (option === name ? [options[i + 1]] : []));
}

if (options.includes("--version")) {
  const version = solc.version().replace(".Emscripten.clang", ".Linux.g++");
  process.stdout.write(`solc, the solidity compiler commandline interface\nVersion: ${version}\n`);
} else if (options.includes("--standard-json")) {
  const roots = [...values("--base-path"), ...values("--include-path"), process.cwd()];
  const load = (name) => {
    const found = roots.map((root) => path.resolve(root, name)).find((file) => fs.existsSync(file));
    return found ? { contents: fs.readFileSync(found, "utf8") } : { error: `not found: ${name}` };
  };
  process.stdout.write(solc.compile(fs.readFileSync(0, "utf8"), { import: load }));
} else {
  process.stderr.write(`only --version and --standard-json are known, not ${options.join(" ")}\n`);
  process.exitCode = 1;
}
