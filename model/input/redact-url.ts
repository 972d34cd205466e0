/** A text without the user and the password of the URLs in it: they are secrets, and messages are kept and shown. */
export function redactUrls(text: string): string {
  // The last `@` before the path decides, as it does for URL parsers.
  return text.replaceAll(/([a-z][a-z0-9+.-]{0,31}:[/\\]{2})[^/\\?#\s"'<>]*@/gi, '$1…@');
}

/**
 * The same of the begin of a long text, in a time that does not grow with it. A URL whose user and password may go on after that
 * has none of them here.
 */
export function redactBegin(text: string, chars: number): string {
  if (text.length <= chars) return redactUrls(text);
  return redactUrls(text.slice(0, chars).replace(/([a-z0-9+.-]:[/\\]{2})[^/\\?#\s"'<>]*$/i, '$1…'));
}
