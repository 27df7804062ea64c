// Runs before the first paint, so that the remembered theme does not flash; page.js has the button.
try {
  const theme = localStorage.getItem("reactor-theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden here: the system's preference it is.
}
