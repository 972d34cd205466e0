export interface FetchRequest {
  url: string;
  source: 'repository' | 'outside';
  sizeBytes: number | null;
  sha256: string | null;
  /** An absolute path; the fetcher makes its folder. */
  destination: string;
  /** Permission bits; 0644 if they are absent. */
  mode?: number;
  /** The limit of this file's size. */
  limitBytes: number;
  limitSeconds: number;
  allowInternal: boolean;
}

export interface InputFetcher {
  /** `input-unavailable`, `address-refused`, `digest-mismatch`, `inputs-too-large`, `disk-full`. */
  fetch(request: FetchRequest, signal: AbortSignal): Promise<{ sizeBytes: number; sha256: string }>;
}
