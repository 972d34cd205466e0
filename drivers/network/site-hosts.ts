/**
 * Names or addresses of the services that a host knows from its own configuration, without ports: guests reach nothing on
 * their machines.
 * @param temporalAddress `host:port`
 */
export function siteHosts(temporalAddress: string, repositoryUrl: string): string[] {
  const hosts = [new URL(`http://${temporalAddress}`), new URL(repositoryUrl)].map(({ hostname }) => hostname);
  return [...new Set(hosts.map((host) => host.replace(/^\[|\]$/g, '')))];
}
