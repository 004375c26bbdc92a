// Runs forge coverage and fails unless every line and branch of the contracts is covered (those in src/dev are for
// tests and demos).
"use strict";
const { spawnSync } = require("child_process");
const fs = require("fs");
const os = require("os");
const path = require("path");
const { forgePath } = require("./forge.js");

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "galaxy-coverage-"));
const report = path.join(folder, "lcov.info");
const run = spawnSync(forgePath(), ["coverage", "--report", "lcov", "--report-file", report], {
  cwd: path.resolve(__dirname, ".."),
  stdio: ["ignore", "inherit", "inherit"],
});
if (run.status !== 0) process.exit(1);

const missing = [];
let covered = 0;
for (const record of fs.readFileSync(report, "utf8").split("end_of_record")) {
  const file = (record.match(/^SF:(.*)$/m) || [])[1];
  if (!file || !/^src\/[^/]+\.sol$/.test(file)) continue;
  for (const [, line, hits] of record.matchAll(/^DA:(\d+),(\d+)/gm)) {
    if (hits === "0") missing.push(`${file}:${line}: line`);
    covered += 1;
  }
  for (const [, line, hits] of record.matchAll(/^BRDA:(\d+),\d+,\d+,(\d+|-)/gm)) {
    if (hits === "0" || hits === "-") missing.push(`${file}:${line}: branch`);
    covered += 1;
  }
}
fs.rmSync(folder, { recursive: true });
process.stdout.write(`${covered} lines and branches, ${missing.length} not covered\n`);
if (missing.length > 0 || covered === 0) {
  process.stdout.write(`${missing.join("\n")}\n`);
  process.exit(1);
}
