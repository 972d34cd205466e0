/** What a host needs to connect a client to a guest. */
export interface StreamOrder {
  /** Names this connection at the API. */
  id: string;
  /** Base URL of the API process that holds the client; null: the one that this host uses anyway. */
  url: string | null;
  /** Taken once, by that process. */
  token: string;
  owner: string;
  /** It needs the program of Berth in the guest: a terminal, an input, a session that goes on, a connection. */
  needsProgram: boolean;
  /** Its serial console, instead of a session of that program. */
  console?: boolean;
}
