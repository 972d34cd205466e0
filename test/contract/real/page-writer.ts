/**
 * A Perl program for a guest that counts in each of so many pages of its memory, fifty times a second. A page whose number differs
 * from the last one that was written there, which a migration has brought in an older version, is a line on the console; so is that it has begun.
 */
export const pageWriter = (pages: number): string => `
$n = ${pages}; $b = "\\0" x ($n * 4096); $i = 0;
open(F, ">>", "/dev/console"); print F "counts in $n pages\\n"; close(F);
while (1) {
  for $p (0 .. $n - 1) {
    $v = unpack("L", substr($b, $p * 4096, 4));
    if ($v != $i) { open(F, ">>", "/dev/console"); print F "LOST page $p: $v, not $i\\n"; close(F) }
    substr($b, $p * 4096, 4) = pack("L", $i + 1);
  }
  $i++; select(undef, undef, undef, 0.02);
}`;

export const lostPagesIn = (console: string): string[] => console.split('\n').filter((line) => line.startsWith('LOST'));
