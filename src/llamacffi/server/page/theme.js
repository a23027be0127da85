// Runs before the first paint, so that the page does not flash in the wrong colours.
try {
  const theme = localStorage.getItem("llamacffi.theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's colours.
}
