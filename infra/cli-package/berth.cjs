#!/usr/bin/env node
// The command `berth` of the package. A Node that is too old must be able to read this file as far as its message, so it
// is written in the JavaScript of 2009.
var major = Number(process.versions.node.split('.')[0]);
if (major < 20) {
  // biome-ignore lint/style/useTemplate: a template is newer
  process.stderr.write('berth: needs Node 20 or newer; ' + process.execPath + ' is Node ' + process.versions.node + '\n');
  process.exitCode = 2;
} else {
  require('../lib/berth.cjs');
}
