// Runs before the first paint, so that no other theme flashes; page.js has the button.
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function applyTheme() {
  let theme = null;
  try {
    theme = localStorage.getItem("reactor-theme");
  } catch {
    // Storage is forbidden here: the system's preference counts.
  }
  if (theme !== "dark" && theme !== "light") theme = systemDark.matches ? "dark" : "light";
  document.documentElement.dataset.theme = theme;
}

applyTheme();
systemDark.addEventListener("change", applyTheme);
