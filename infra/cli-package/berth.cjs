#!/usr/bin/env node
// The command `berth` of the package. A Node that is too old must be able to parse this file and print its message, so it
// uses ECMAScript 5 (2009) only.
var major = Number(process.versions.node.split('.')[0]);
if (major < 20) {
  // biome-ignore lint/style/useTemplate: a template is newer
  process.stderr.write('berth: needs Node 20 or newer; ' + process.execPath + ' is Node ' + process.versions.node + '\n');
  process.exitCode = 2;
} else {
  require('../lib/berth.cjs');
}
