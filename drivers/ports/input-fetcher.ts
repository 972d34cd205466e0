export interface FetchRequest {
  url: string;
  source: 'repository' | 'outside';
  sizeBytes: number | null;
  sha256: string | null;
  /** An absolute path, whose folder the fetcher makes. */
  destination: string;
  /** The most that this one may have. */
  limitBytes: number;
  limitSeconds: number;
  allowInternal: boolean;
}

export interface InputFetcher {
  /** `input-unavailable`, `address-refused`, `digest-mismatch`, `inputs-too-large`, `disk-full`. */
  fetch(order: FetchRequest, signal: AbortSignal): Promise<{ sizeBytes: number; sha256: string }>;
}
