/** A text without the user and the password of the URLs in it: they are secrets, and messages are kept and shown. */
export function redactUrls(text: string): string {
  // The last `@` before the path decides, as it does for URL parsers.
  return text.replaceAll(/([a-z][a-z0-9+.-]{0,31}:[/\\]{2})[^/\\?#\s"'<>]*@/gi, '$1…@');
}
